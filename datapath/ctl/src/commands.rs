//! The commands, `top` apart.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

use l7mp_api::limits::DOCUMENT_BYTES_MAX;
use l7mp_api::status::{Applied, ConfigAnswer, Draining, Info, Session, SessionPage};
use l7mp_api::{Config, Problem};
use serde_json::Value;

use crate::cli::{Args, Command, Deletable, Format, Kind};
use crate::client::{Client, escaped};
use crate::error::Error;
use crate::table::counted;
use crate::{explain, output, tables, top};

/// How often `drain --wait` looks.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

/// Does what the command line says.
///
/// # Errors
///
/// Why it could not be done.
pub fn run(args: Args, out: &mut impl Write) -> Result<(), Error> {
    let format = args.output;
    if let Command::Validate { file } = &args.command {
        return validate(file, format, out);
    }
    if matches!(args.command, Command::Top { .. }) && format != Format::Table {
        let advice = "take l7mpctl get -o, or /metrics of the proxy";
        return Err(Error::Usage(format!("top prints text and takes no --output; for a program, {advice}")));
    }
    let client = Client::new(args.socket.unwrap_or_else(l7mp_api::socket::default_path))?;
    match args.command {
        Command::Apply { file, dry_run, if_version } => apply(&client, &file, dry_run, if_version, format, out),
        Command::Get { kind, name, listener } => get(&client, kind, name.as_deref(), listener.as_deref(), format, out),
        Command::Delete { kind: Deletable::Session, name } => {
            client.delete(&format!("/api/v1/sessions/{}", escaped(&name)))?;
            output::print(out, format, &Deleted { deleted: &name }, |_| format!("deleted session {name}\n"))
        }
        Command::Drain { after, wait } => {
            std::thread::sleep(after.unwrap_or_default());
            drain(&client, wait, format, out)
        }
        Command::Ready => {
            client.text("/readyz")?;
            output::print(out, format, &Ready { ready: true }, |_| "ready\n".to_owned())
        }
        Command::Explain { saved } => explain::explain(&client, saved, format, out),
        Command::Validate { .. } => Ok(()),
        Command::Top { once } if once || !std::io::stdout().is_terminal() => top::once(&client, out),
        Command::Top { .. } => top::live(&client),
    }
}

/// A proxy that serves, for programs.
#[derive(serde::Serialize)]
struct Ready {
    ready: bool,
}

/// A session that was deleted, for programs.
#[derive(serde::Serialize)]
struct Deleted<'a> {
    deleted: &'a str,
}

/// What a document that is in order holds, for programs.
#[derive(serde::Serialize)]
struct Validated {
    listeners: usize,
    clusters: usize,
    warnings: Vec<Problem>,
}

fn apply(
    client: &Client,
    file: &Path,
    dry_run: bool,
    if_version: Option<u64>,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Error> {
    let uri = if dry_run { "/api/v1/config?dry_run=true" } else { "/api/v1/config" };
    let applied: Applied = client.put(uri, read(file)?, if_version)?;
    if format == Format::Table {
        warn(&applied.warnings);
    }
    output::print(out, format, &applied, |applied| {
        let what = match (dry_run, applied.changed) {
            (false, true) => "adopted",
            (false, false) => "nothing has changed",
            (true, true) => "is adopted; the document could replace it",
            (true, false) => "is adopted; the document would change nothing",
        };
        format!("version {}: {what}\n", applied.version)
    })
}

fn get(
    client: &Client,
    kind: Kind,
    name: Option<&str>,
    listener: Option<&str>,
    format: Format,
    out: &mut impl Write,
) -> Result<(), Error> {
    if listener.is_some() && kind != Kind::Sessions {
        return Err(Error::Usage("--listener is for get sessions".to_owned()));
    }
    match (kind, name) {
        (Kind::Config | Kind::Info, Some(_)) => {
            Err(Error::Usage(format!("there is one {0}; l7mpctl get {0} takes no name", kind.name())))
        }
        (Kind::Config, None) => config(client, format, out),
        (Kind::Info, None) => {
            let info: Info = client.get("/api/v1/info")?;
            output::print(out, format, &info, tables::info)
        }
        (Kind::Sessions, None) => {
            let sessions = sessions(client, listener)?;
            output::print(out, format, &sessions, |sessions| tables::sessions(sessions).to_string())
        }
        (Kind::Sessions, Some(name)) => {
            let session: Session = client.get(&format!("/api/v1/sessions/{}", escaped(name)))?;
            output::print(out, format, &session, tables::session)
        }
        (Kind::Listeners | Kind::Clusters | Kind::Routes | Kind::Rules | Kind::Rulelists, None) => {
            let objects: Vec<Value> = client.get(&format!("/api/v1/{}", kind.name()))?;
            output::print(out, format, &objects, |objects| tables::objects(kind, objects).to_string())
        }
        (Kind::Listeners | Kind::Clusters | Kind::Routes | Kind::Rules | Kind::Rulelists, Some(name)) => {
            let object: Value = client.get(&format!("/api/v1/{}/{}", kind.name(), escaped(name)))?;
            let one = |object: &Value| tables::objects(kind, std::slice::from_ref(object)).to_string();
            output::print(out, format, &object, one)
        }
    }
}

/// The document alone, ready to be applied again.
fn config(client: &Client, format: Format, out: &mut impl Write) -> Result<(), Error> {
    let answer: ConfigAnswer = client.get("/api/v1/config")?;
    warn(&answer.warnings);
    let document = output::yaml(&answer.config)?;
    let format = if format == Format::Yaml { Format::Table } else { format };
    output::print(out, format, &answer.config, |_| format!("# version {}\n{document}", answer.version))
}

/// All pages.
fn sessions(client: &Client, listener: Option<&str>) -> Result<Vec<Session>, Error> {
    let filter = listener.map(|name| format!("&listener={}", escaped(name))).unwrap_or_default();
    let mut sessions = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: SessionPage = client.get(&format!("/api/v1/sessions?limit=1000{filter}{cursor}"))?;
        sessions.extend(page.sessions);
        match page.cursor {
            Some(next) => cursor = format!("&cursor={}", escaped(&next)),
            None => break,
        }
    }
    // A listener without sessions, or none? One that was removed may have sessions still.
    if let (Some(name), true) = (listener, sessions.is_empty()) {
        let _: Value = client.get(&format!("/api/v1/listeners/{}", escaped(name)))?;
    }
    Ok(sessions)
}

fn drain(client: &Client, wait: bool, format: Format, out: &mut impl Write) -> Result<(), Error> {
    let draining: Draining = client.post("/api/v1/drain")?;
    output::print(out, format, &draining, |draining| {
        format!("draining, {} live\n", counted(draining.sessions, "session"))
    })?;
    if !wait {
        return Ok(());
    }
    out.flush()?;
    let instance = client.get::<Info>("/api/v1/info")?.instance;
    loop {
        let left = match client.get::<Info>("/api/v1/info") {
            Ok(info) if info.instance == instance => info.sessions,
            // It has ended meanwhile, or another one has taken its place: its sessions are gone.
            Ok(_) | Err(Error::Unreachable { .. } | Error::Broken { .. }) => 0,
            Err(error) => return Err(error),
        };
        if left == 0 {
            return if format == Format::Table { Ok(writeln!(out, "drained")?) } else { Ok(()) };
        }
        std::thread::sleep(DRAIN_LOOK);
    }
}

/// Offline: what a proxy would say of the document before it binds anything.
fn validate(file: &Path, format: Format, out: &mut impl Write) -> Result<(), Error> {
    let config = Config::read(&read(file)?).map_err(Error::Problems)?;
    let (listeners, clusters) = (config.listeners.len(), config.clusters.len());
    let validated = Validated { listeners, clusters, warnings: config.warnings() };
    if format == Format::Table {
        warn(&validated.warnings);
    }
    output::print(out, format, &validated, |_| {
        let counts = [counted(listeners as u64, "listener"), counted(clusters as u64, "cluster")].join(", ");
        format!("{}: ok ({counts})\n", file.display())
    })
}

fn warn(warnings: &[Problem]) {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

/// A document's text; `-` is standard input.
fn read(file: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { path: file.to_owned(), source };
    // One byte more than is allowed, so that what is too long is seen to be.
    let limit = DOCUMENT_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    }
    if bytes.len() as u64 == limit {
        let message = format!("{} is longer than {DOCUMENT_BYTES_MAX} bytes, the limit of a document", file.display());
        return Err(Error::Usage(message));
    }
    String::from_utf8(bytes).map_err(|error| failed(std::io::Error::other(error)))
}
