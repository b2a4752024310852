//! `cargo cluster`: a cluster for people.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::place::{Place, Record};
use super::programs::Programs;
use super::settings::NODE;
use super::{DEFAULT_NAME, Network, Part, clean, control, images, needs, start};
use crate::testbed::Profile;

/// What to do, with which cluster.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The cluster's name: 1 to 10 lower-case letters and digits
    #[arg(long, global = true, default_value = DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Build its programs if they are not there, start it, and wait until the node is ready
    Up,
    /// Build the project's images and give them to the node, or give it those of archives
    Load {
        /// Programs without optimisation, built sooner
        #[arg(long)]
        debug: bool,
        /// OCI or Docker archives, instead of the project's own images
        files: Vec<PathBuf>,
    },
    /// Stop it, and remove everything of it but the programs
    Down,
    /// Say what runs; exit code 0 when all of it does
    Status,
    /// Print the lines for a shell: eval "$(cargo cluster env)"
    Env,
}

/// Does it.
pub fn run(options: &Options) -> Result<()> {
    super::end_on_signals()?;
    let place = Place::of(&options.name)?;
    match &options.command {
        Command::Up => up(&place),
        Command::Load { debug, files } => load(&place, if *debug { Profile::Debug } else { Profile::Release }, files),
        Command::Down => down(&place),
        Command::Status => status(&place),
        Command::Env => {
            print_environment(&place, &running(&place)?);
            Ok(())
        }
    }
}

fn up(place: &Place) -> Result<()> {
    needs::check()?;
    let programs = Programs::find_or_build()?;
    let _lock = place.lock()?;
    let started = start::up(place, &programs)?;
    match started.hold {
        Some(hold) => hold.release()?,
        None => eprintln!("cluster {} runs", place.name),
    }
    print_environment(place, &started.record);
    Ok(())
}

fn load(place: &Place, profile: Profile, files: &[PathBuf]) -> Result<()> {
    needs::check()?;
    let _lock = place.lock()?;
    let programs = Programs { directory: running(place)?.programs };
    if files.is_empty() {
        return images::load(place, &programs, profile);
    }
    for file in files {
        ensure!(file.is_file(), "no file {}", file.display());
        images::import(place, &programs, file)?;
        eprintln!("  {}", file.display());
    }
    Ok(())
}

fn down(place: &Place) -> Result<()> {
    needs::check()?;
    let _lock = place.lock()?;
    let mut steps = start::Steps::begin();
    let was_there = place.directory.exists();
    clean::down(place)?;
    if was_there {
        steps.done(&format!("cluster {} is gone", place.name));
    } else {
        eprintln!("no cluster {} is there", place.name);
    }
    Ok(())
}

fn status(place: &Place) -> Result<()> {
    let record = running(place)?;
    let (answer, _) = control::ask(&place.directory, &control::Request::Status)?;
    let network = Network(record.network);
    let mut text = format!("cluster {}: node {NODE} at {}, pods in {}\n", place.name, network.node(), network.all());
    let mut dead = 0;
    for part in Part::ALL {
        let how = match answer.parts.get(part.name()) {
            Some(None) => "runs".to_owned(),
            Some(Some(how)) => format!("has ended: {how}; its log: {}", place.log(part.name()).display()),
            None => "was never started".to_owned(),
        };
        dead += usize::from(how != "runs");
        text += &format!("  {:<20} {how}\n", part.name());
    }
    print(&text);
    if dead > 0 {
        bail!("{dead} of {} parts do not run: `cargo cluster up` starts them again", Part::ALL.len());
    }
    Ok(())
}

fn running(place: &Place) -> Result<Record> {
    place.running().with_context(|| format!("cluster {} does not run: `cargo cluster up` starts it", place.name))
}

fn print_environment(place: &Place, record: &Record) {
    let programs = Programs { directory: record.programs.clone() };
    print(&super::exports(&place.file("admin.kubeconfig"), Some(&programs.bin())));
}

/// Whoever reads may have read enough.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
