//! Says in the log when connections to a cluster begin to fail, and when they no longer do. One line per cluster and
//! look at most, however many sessions are concerned; the metrics have every count.

use std::collections::HashMap;
use std::time::Duration;

use l7mp_forwarder::counters::Failure;
use l7mp_forwarder::snapshot::compile::Scopes;
use l7mp_forwarder::time::Time;
use tracing::{info, warn};

use crate::failures::{self, Words};

/// How often the counters are looked at.
pub const LOOK: Duration = Duration::from_secs(5);

/// What was seen of a cluster at the last look.
#[derive(Clone, Copy, Default)]
struct Seen {
    failures: u64,
    in_trouble: bool,
    /// When the failure was of which the kernel said why.
    last: Option<Time>,
}

/// The clusters and their failures.
#[derive(Default)]
pub struct Trouble {
    seen: HashMap<String, Seen>,
}

/// What is new of a cluster.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// How often, and the last of those of which the kernel said why; those that took too long have none.
    Failing(String, u64, Option<Failure>),
    Recovered(String),
}

impl Trouble {
    /// Compares the counters with those of the last look, and logs what is new.
    pub fn look(&mut self, scopes: &Scopes, words: &Words) {
        for news in self.news(scopes) {
            match news {
                News::Failing(cluster, failures, last) => {
                    let why = last.map(|failure| format!("; the last: {}", words.of(&failure))).unwrap_or_default();
                    let period = LOOK.as_secs();
                    warn!("cluster {cluster}: connections that failed in the last {period} s: {failures}{why}");
                }
                News::Recovered(cluster) => info!("cluster {cluster}: connections no longer fail"),
            }
        }
    }

    fn news(&mut self, scopes: &Scopes) -> Vec<News> {
        self.seen.retain(|name, _| scopes.clusters.contains_key(name));
        let mut news = Vec::new();
        for (name, counters) in &scopes.clusters {
            let failures = counters.iter().map(|counters| counters.connect_failures.get()).sum();
            let seen = self.seen.entry(name.clone()).or_default();
            let fresh = u64::saturating_sub(failures, seen.failures);
            let last = failures::last(counters);
            let at = last.as_ref().map(|failure| failure.at);
            if fresh > 0 {
                news.push(News::Failing(name.clone(), fresh, last.filter(|failure| Some(failure.at) != seen.last)));
            } else if seen.in_trouble {
                news.push(News::Recovered(name.clone()));
            }
            *seen = Seen { failures, in_trouble: fresh > 0, last: at };
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use l7mp_forwarder::address::EndpointAddr;

    use super::*;

    #[test]
    fn trouble_is_said_while_it_lasts_and_its_end_once() {
        let mut scopes = Scopes::default();
        scopes.clusters.insert("c".to_owned(), vec![Default::default(), Default::default()]);
        let failing = |failures, last| [News::Failing("c".to_owned(), failures, last)];
        let mut trouble = Trouble::default();
        assert_eq!(trouble.news(&scopes), []);
        scopes.clusters["c"][0].connect_failures.add(2);
        scopes.clusters["c"][1].connect_failures.add(1);
        assert_eq!(trouble.news(&scopes), failing(3, None));
        let endpoint = EndpointAddr::inet("127.0.0.1:9".parse().unwrap());
        let failure = Failure { errno: 111, endpoint, at: Time::from_nanos(5) };
        scopes.clusters["c"][0].connect_failures.add(1);
        scopes.clusters["c"][0].last_failure.set(failure.clone());
        assert_eq!(trouble.news(&scopes), failing(1, Some(failure)));
        scopes.clusters["c"][1].connect_failures.add(1);
        assert_eq!(trouble.news(&scopes), failing(1, None), "what was said of another failure is not said of this");
        assert_eq!(trouble.news(&scopes), [News::Recovered("c".to_owned())]);
        assert_eq!(trouble.news(&scopes), []);
    }
}
