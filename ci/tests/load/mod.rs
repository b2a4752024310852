//! Clients that talk all the time, what each of them saw, and what the proxies counted meanwhile.

// Each test program uses a part of this.
#![allow(dead_code)]

mod clients;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use l7mp_ci::testbed::{Binaries, Options, Profile, Role, Testbed};

pub use clients::*;

impl Diagnosis for Testbed {
    fn diagnosis(&self) -> String {
        self.logs(30)
    }
}

/// A testbed whose proxies have their configurations.
pub fn running(options: Options) -> Testbed {
    static BINARIES: OnceLock<Binaries> = OnceLock::new();
    let mut testbed = Testbed::start(BINARIES.get_or_init(binaries), options).unwrap();
    wait_ready(&mut testbed);
    testbed
}

/// Built as this test is.
fn binaries() -> Binaries {
    let profile = if cfg!(debug_assertions) { Profile::Debug } else { Profile::Release };
    Binaries::find_or_build(profile, env!("CARGO_BIN_EXE_l7mp-ci").into()).unwrap()
}

pub fn wait_ready(testbed: &mut Testbed) {
    if let Err(error) = testbed.wait_ready(PATIENCE, |_| false) {
        panic!("{error:#}\n{}", testbed.logs(30));
    }
}

pub fn first_name(testbed: &Testbed, role: Role) -> String {
    testbed.pods_of(role).next().unwrap().name.clone()
}

/// Every sample of a proxy's `/metrics`.
pub fn metrics(testbed: &Testbed, pod: &str) -> BTreeMap<String, f64> {
    let answer = testbed.get(pod, "/metrics").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    samples.map(sample).collect()
}

/// Sessions of a proxy: names, and the endpoints of their stages. All pages.
pub fn sessions(testbed: &Testbed, pod: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let mut path = "/api/v1/sessions?limit=50".to_owned();
    loop {
        let answer = testbed.get(pod, &path).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page = answer.json();
        for session in page["sessions"].as_array().unwrap() {
            let stages = session["ingress"].as_array().into_iter().flatten().chain([&session["destination"]]);
            let endpoints = stages.map(|stage| stage["endpoint"].as_str().unwrap().to_owned()).collect();
            all.insert(session["name"].as_str().unwrap().to_owned(), endpoints);
        }
        let Some(cursor) = page["cursor"].as_str() else { return all };
        path = format!("/api/v1/sessions?limit=50&cursor={cursor}");
    }
}

/// Every message that came into a proxy has gone out, or is counted with a reason.
pub fn assert_books_balance(testbed: &mut Testbed, pod: &str) {
    let books = |testbed: &Testbed| {
        let samples = metrics(testbed, pod);
        let sum = |prefix: &str| -> f64 {
            samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
        };
        let fates =
            ["l7mp_messages_out_total", "l7mp_messages_dropped_total", "l7mp_messages_held", "l7mp_messages_queued"];
        (sum("l7mp_messages_in_total"), fates.map(sum))
    };
    let balanced = |testbed: &Testbed| {
        let (arrived, fates) = books(testbed);
        arrived == fates.iter().sum::<f64>()
    };
    if testbed.wait_until(Duration::from_secs(5), "the books balance", balanced).is_err() {
        panic!("{pod}: in, [out, dropped, held, queued] = {:?}\n{}", books(testbed), testbed.logs(30));
    }
}
