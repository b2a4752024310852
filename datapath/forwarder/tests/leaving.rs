//! Datagram clients whose session is ended by one of its stages.

mod support;

use l7mp_forwarder::counters::{DropReason, EndReason};
use support::{Bench, document};

const CLUSTERS: &str = "\
- {name: c, spec: {UDP: {port: 9}}, endpoints: [{spec: {address: 10.0.0.2}}]}
- {name: t, spec: {TCP: {port: 9}}, endpoints: [{spec: {address: 10.0.0.3}}]}";

/// What it sent was dropped for as long as late answers were waited for.
#[test]
fn a_datagram_client_whose_ingress_ends_has_another_session_with_its_next_datagram() {
    let mut bench = Bench::new(&document(CLUSTERS, "destination: c, ingress: [t]"));
    bench.udp(5000, b"one");
    let (ingress, destination) = (bench.open(), bench.open());
    assert_eq!(bench.text(ingress), "one");
    bench.bytes(ingress, b"ONE");
    let old = bench.flow(5000);
    bench.ended(ingress);
    assert_eq!(bench.sessions(), 1, "late answers are waited for");

    assert_eq!(bench.udp(5000, b"two"), None);
    let new_ingress = bench.open();
    bench.open();
    assert_eq!(bench.text(new_ingress), "two");
    let new = bench.flow(5000);
    assert_ne!(new, old);
    bench.bytes(destination, b"late");
    assert_eq!(bench.text(old), "late");

    bench.pass(1100);
    assert_eq!((bench.sessions(), bench.closed(EndReason::Finished)), (1, 1));
    assert_eq!(bench.flow(5000), new, "the end of the old session left the new one alone");
    assert_eq!(bench.dropped(DropReason::Closed), 0);
}

#[test]
fn a_datagram_client_that_is_silent_when_its_ingress_ends_leaves_nothing() {
    let mut bench = Bench::new(&document(CLUSTERS, "destination: c, ingress: [t]"));
    bench.udp(5000, b"one");
    let ingress = bench.open();
    bench.open();
    bench.ended(ingress);
    bench.pass(1100);
    assert_eq!(bench.closed(EndReason::Finished), 1);
    bench.is_empty();
}
