//! Ctrl-C, and the other polite ways to end us.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Counts them, and wakes whoever waits for one.
pub struct Interrupt {
    times: Arc<AtomicUsize>,
    arrival: mpsc::Receiver<()>,
}

impl Interrupt {
    /// From now on they end nothing by themselves.
    pub fn new() -> Result<Interrupt> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
        let times = Arc::new(AtomicUsize::new(0));
        let (arrived, arrival) = mpsc::channel();
        let count = Arc::clone(&times);
        std::thread::spawn(move || {
            for _ in signals.forever() {
                count.fetch_add(1, Ordering::Relaxed);
                if arrived.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Interrupt { times, arrival })
    }

    /// Whether one came.
    pub fn came(&self) -> bool {
        self.times() > 0
    }

    /// How many came.
    pub fn times(&self) -> usize {
        self.times.load(Ordering::Relaxed)
    }

    /// An error once one came.
    pub fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits for the first, at most for `patience`; whether it came.
    pub fn wait(&self, patience: Duration) -> bool {
        self.came() || self.arrival.recv_timeout(patience).is_ok()
    }
}
