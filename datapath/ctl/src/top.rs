//! `l7mpctl top`: listeners, clusters, sessions, rates and drops, each second or once.

mod samples;
mod screen;
mod view;

use std::io::Write;
use std::time::{Duration, Instant};

use l7mp_api::status::{Info, Session, SessionPage};

use crate::client::Client;
use crate::error::Error;
use samples::Samples;
use view::View;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a live screen waits for an answer.
const LIVE_PATIENCE: Duration = Duration::from_secs(2);
/// Sessions that are asked for: more do not fit on a screen.
const SESSIONS_MAX: usize = 50;

/// What the proxy said at one time.
struct Look {
    at: Instant,
    info: Info,
    samples: Samples,
    sessions: Vec<Session>,
}

impl Look {
    fn take(client: &Client) -> Result<Look, Error> {
        let info = client.get("/api/v1/info")?;
        let samples = Samples::read(&client.text("/metrics")?);
        let page: SessionPage = client.get(&format!("/api/v1/sessions?limit={SESSIONS_MAX}"))?;
        Ok(Look { at: Instant::now(), info, samples, sessions: page.sessions })
    }
}

/// The rates of one second, as text.
///
/// # Errors
///
/// When the proxy does not answer.
pub fn once(client: &Client, out: &mut impl Write) -> Result<(), Error> {
    let before = Look::take(client)?;
    std::thread::sleep(PERIOD);
    let now = Look::take(client)?;
    Ok(write!(out, "{}", View::new(Some(&before), &now))?)
}

/// A live screen, until `q` or Ctrl-C. A proxy that goes away is waited for.
///
/// # Errors
///
/// When the proxy does not answer at first, or the terminal is gone.
pub fn live(client: &Client) -> Result<(), Error> {
    let client = client.patient_for(LIVE_PATIENCE)?;
    let mut now = Look::take(&client)?;
    let mut view = View::new(None, &now);
    let mut screen = screen::Screen::open()?;
    loop {
        let next = Instant::now() + PERIOD;
        if screen.show(&view, next)? {
            return Ok(());
        }
        match Look::take(&client) {
            Ok(look) => {
                view = View::new(Some(&now), &look);
                now = look;
            }
            Err(error) => view.trouble = Some(error.lines().join("; ")),
        }
    }
}
