//! The real agent between an operator and a proxy of paper: each may restart, in any order.

mod support;

use std::os::unix::fs::PermissionsExt;

use l7mp_link::certificates::server_config;
use l7mp_link::server::Leadership;
use l7mp_link::{Configuration, Report, Version};
use support::{Operator, Pod, configuration, material, soon, token, until, version};

#[tokio::test]
async fn a_configuration_is_adopted_acknowledged_and_kept() {
    let pod = Pod::new();
    let _proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let _agent = pod.agent(operator.address);
    let (holds, sender) = operator.connected().await;
    assert_eq!(holds, None);
    let not_ready = pod.check().await;
    assert_eq!(not_ready.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&not_ready.stderr).contains("no configuration yet"), "{not_ready:?}");
    sender.try_send(configuration(1, 9001)).unwrap();
    operator.applied(version(1)).await;
    pod.proxy.wait(9001).await;
    pod.checks(0).await;
    until("it is kept", || pod.file("saved.json").exists()).await;
    assert_eq!(std::fs::metadata(pod.file("saved.json")).unwrap().permissions().mode() & 0o777, 0o600);

    // What the proxy refuses goes back with the proxy's words, and takes nothing away.
    sender.try_send(configuration(2, 666)).unwrap();
    let Report::Refused { version: refused, errors } = operator.report().await else { panic!() };
    assert_eq!((refused, errors[0].path.as_str()), (version(2), "listeners[0].spec.UDP.port"));
    pod.proxy.wait(9001).await;
    assert!(std::fs::read_to_string(pod.file("saved.json")).unwrap().contains("9001"));

    // What is older is not tried.
    let puts = pod.proxy.seen.lock().unwrap().puts;
    sender.try_send(configuration(1, 9003)).unwrap();
    let Report::Refused { errors, .. } = operator.report().await else { panic!() };
    assert!(errors[0].message.contains("1.1 is older than 1.2"), "{errors:?}");
    assert_eq!(pod.proxy.seen.lock().unwrap().puts, puts);
    // Unless its Lease is another one, which counts from the beginning.
    let other = Version { epoch: 6, term: 0, sequence: 1 };
    sender.try_send(Configuration { version: other, ..configuration(0, 9004) }).unwrap();
    operator.applied(other).await;
    pod.proxy.wait(9004).await;
}

#[tokio::test]
async fn a_restarted_proxy_gets_its_configuration_back_and_so_does_one_that_another_hand_changed() {
    let pod = Pod::new();
    let mut operator = pod.operator().await;
    let _agent = pod.agent(operator.address);
    let (_, sender) = operator.connected().await;
    sender.try_send(configuration(1, 9001)).unwrap();
    let Report::Trouble(trouble) = operator.report().await else { panic!() };
    assert!(trouble.contains("No such file or directory"), "{trouble}");
    let first = pod.proxy.start("first");
    operator.applied(version(1)).await;
    assert_eq!(pod.proxy.seen.lock().unwrap().puts, 1);

    drop(first);
    let Report::Trouble(trouble) = operator.report().await else { panic!() };
    assert!(trouble.contains("no proxy answers"), "{trouble}");
    pod.checks(1).await;
    let second = pod.proxy.start("second");
    pod.proxy.wait(9001).await;
    assert_eq!(operator.report().await, Report::Trouble(String::new()));
    pod.checks(0).await;

    {
        let mut seen = pod.proxy.seen.lock().unwrap();
        (seen.version, seen.config) = (9, support::config(9009));
    }
    pod.proxy.wait(9001).await;

    // One that refuses the newest has the last good one after its restart.
    sender.try_send(configuration(2, 666)).unwrap();
    assert!(matches!(operator.report().await, Report::Refused { .. }));
    drop(second);
    let _third = pod.proxy.start("third");
    pod.proxy.wait(9001).await;
}

#[tokio::test]
async fn without_an_operator_a_proxy_gets_what_it_acknowledged_last() {
    let pod = Pod::new();
    let proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let address = operator.address;
    let agent = pod.agent(address);
    let (_, sender) = operator.connected().await;
    sender.try_send(configuration(3, 9001)).unwrap();
    operator.applied(version(3)).await;
    until("it is kept", || pod.file("saved.json").exists()).await;
    drop(operator);
    agent.kill().await;
    drop(proxy);

    // All three are gone. A proxy and an agent come back, an operator does not.
    let _proxy = pod.proxy.start("second");
    let agent = pod.agent(address);
    pod.proxy.wait(9001).await;
    pod.checks(0).await;
    // A restart of the agent alone is not noticed by the proxy.
    let puts = pod.proxy.seen.lock().unwrap().puts;
    agent.kill().await;
    let _agent = pod.agent(address);
    pod.checks(0).await;
    assert_eq!(pod.proxy.seen.lock().unwrap().puts, puts);
    // The operator comes back, and hears what is there.
    let mut operator = Operator::start(Some(address), &pod.paper, &pod.material).await;
    let (holds, sender) = operator.connected().await;
    assert_eq!(holds, Some(version(3)));
    sender.try_send(configuration(2, 9002)).unwrap();
    assert!(matches!(operator.report().await, Report::Refused { .. }));
    sender.try_send(configuration(4, 9002)).unwrap();
    operator.applied(version(4)).await;
    pod.proxy.wait(9002).await;
}

#[tokio::test]
async fn clusters_whose_connections_fail_are_reported_and_so_is_their_end() {
    let pod = Pod::new();
    let _proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let _agent = pod.agent(operator.address);
    let (_, sender) = operator.connected().await;
    sender.try_send(configuration(1, 9001)).unwrap();
    operator.applied(version(1)).await;
    let problem = |text: &str| l7mp_api::Problem::new("clusters[0]", text);
    let report = |warnings: &[l7mp_api::Problem]| Report::Applied { version: version(1), warnings: warnings.to_vec() };
    let fail = |problems: &[l7mp_api::Problem]| pod.proxy.seen.lock().unwrap().failing = problems.to_vec();

    fail(&[problem("connections fail: permission denied")]);
    assert_eq!(operator.report().await, report(&[problem("connections fail: permission denied")]));
    // Another operator hears it as well.
    let address = operator.address;
    drop(operator);
    let mut operator = Operator::start(Some(address), &pod.paper, &pod.material).await;
    let (_, _sender) = operator.connected().await;
    assert_eq!(operator.report().await, report(&[problem("connections fail: permission denied")]));
    fail(&[]);
    assert_eq!(operator.report().await, report(&[]));
}

#[tokio::test]
async fn what_is_kept_of_another_pod_or_cannot_be_read_is_left_alone() {
    let pod = Pod::new();
    let golden = include_str!("../../../datapath/ctl/tests/golden/saved.json");
    for (text, said) in [(golden, "is of another pod, default/gateway-0"), ("{", "is of no use")] {
        std::fs::write(pod.file("saved.json"), text).unwrap();
        let _proxy = pod.proxy.start("first");
        let mut operator = pod.operator().await;
        let agent = pod.agent(operator.address);
        let (holds, sender) = operator.connected().await;
        assert_eq!(holds, None);
        pod.says(said).await;
        sender.try_send(configuration(1, 9001)).unwrap();
        operator.applied(version(1)).await;
        until("it is kept", || std::fs::read_to_string(pod.file("saved.json")).unwrap().contains("9001")).await;
        agent.kill().await;
    }
}

#[tokio::test]
async fn token_and_ca_are_waited_for_and_a_fresh_token_is_shown() {
    let pod = Pod::new();
    std::fs::remove_file(pod.file("token")).unwrap();
    std::fs::remove_file(pod.file("ca.crt")).unwrap();
    let _proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let _agent = pod.agent(operator.address);
    pod.says("cannot read --ca").await;
    pod.write("ca.crt", &pod.material.bundle());
    pod.says("cannot read --token").await;
    pod.write("token", "e30.e30.bm90aGluZw");
    pod.says("the operator refuses this pod's token: nobody signed it").await;
    pod.write("token", &token("gw", 0));
    let (_, sender) = operator.connected().await;
    pod.paper.accept(&token("gw", 1), "gw");
    pod.write("token", &token("gw", 1));
    until("the fresh token is reviewed", || pod.paper.reviewed.lock().unwrap().contains(&token("gw", 1))).await;
    sender.try_send(configuration(1, 9001)).unwrap();
    operator.applied(version(1)).await;
}

#[tokio::test]
async fn the_leader_is_followed_and_the_name_is_what_is_trusted() {
    let pod = Pod::new();
    let _proxy = pod.proxy.start("first");
    let mut first = pod.operator().await;
    let mut second = pod.operator().await;
    let _agent = pod.agent(first.address);
    let (_, sender) = first.connected().await;
    sender.try_send(configuration(1, 9001)).unwrap();
    first.applied(version(1)).await;
    first.leadership.send_replace(Leadership::There { address: second.address.to_string() });
    let (holds, sender) = second.connected().await;
    assert_eq!(holds, Some(version(1)));
    let next = Version { term: 2, ..version(1) };
    sender.try_send(Configuration { version: next, ..configuration(0, 9002) }).unwrap();
    second.applied(next).await;
    // The second is gone before the first knows: the agent goes to and fro, and arrives.
    drop(second);
    first.leadership.send_replace(Leadership::Here { term: 3 });
    let (holds, _sender) = first.connected().await;
    assert_eq!(holds, Some(next));
}

#[tokio::test]
async fn a_ca_is_changed_under_a_live_stream() {
    let pod = Pod::new();
    let _proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let _agent = pod.agent(operator.address);
    let (_, sender) = operator.connected().await;
    let next = material();
    pod.write("ca.crt", &format!("{}{}", pod.material.bundle(), next.bundle()));
    operator.tls.send_replace(server_config(&next.serving).unwrap());
    sender.try_send(configuration(1, 9001)).unwrap();
    operator.applied(version(1)).await;
    // The operator's next process shows the next certificate from its beginning.
    let address = operator.address;
    drop((operator, sender));
    let mut operator = Operator::start(Some(address), &pod.paper, &next).await;
    let (holds, sender) = operator.connected().await;
    assert_eq!(holds, Some(version(1)));
    // An operator that is not trusted is not spoken to.
    drop((operator, sender));
    let reviews = pod.paper.reviewed.lock().unwrap().len();
    let stranger = material();
    let _operator = Operator::start(Some(address), &pod.paper, &stranger).await;
    pod.says("is not trusted to be localhost").await;
    assert_eq!(pod.paper.reviewed.lock().unwrap().len(), reviews);
}

#[tokio::test]
async fn a_pod_that_is_deleted_drains_and_so_does_its_restarted_proxy() {
    let pod = Pod::new();
    let proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let mut agent = pod.agent(operator.address);
    let (_, sender) = operator.connected().await;
    sender.try_send(Configuration { drain: true, ..configuration(1, 9001) }).unwrap();
    operator.applied(version(1)).await;
    until("it drains", || pod.proxy.seen.lock().unwrap().draining).await;
    drop(proxy);
    let _proxy = pod.proxy.start("second");
    until("it drains again", || pod.proxy.seen.lock().unwrap().draining).await;
    // Pushes go on until SIGTERM, which a sidecar gets after the app is gone.
    sender.try_send(Configuration { drain: true, ..configuration(2, 9002) }).unwrap();
    pod.proxy.wait(9002).await;
    let pid = rustix::process::Pid::from_raw(agent.child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = soon("the agent ends", agent.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn metrics_say_what_happened() {
    let pod = Pod::new();
    let _proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let _agent = pod.agent(operator.address);
    let (_, sender) = operator.connected().await;
    sender.try_send(configuration(7, 9001)).unwrap();
    operator.applied(version(7)).await;
    let text = pod.metrics().await;
    for line in ["connected 1", "acknowledged_sequence 7", "ready 1", "connects_total 1", "pushes_total 1"] {
        assert!(text.contains(&format!("\nl7mp_agent_{line}\n")), "{line}: {text}");
    }
    assert_eq!(pod.paper.reviewed.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_operator_that_has_nothing_to_say_is_one_that_the_agent_is_connected_to() {
    let pod = Pod::new();
    let _proxy = pod.proxy.start("first");
    let mut operator = pod.operator().await;
    let _agent = pod.agent(operator.address);
    let (_, sender) = operator.connected().await;
    sender.try_send(configuration(1, 9001)).unwrap();
    operator.applied(version(1)).await;
    let address = operator.address;
    drop((operator, sender));
    pod.shows("connected 0").await;
    // The proxy has what it should: it is told nothing more.
    let mut operator = Operator::start(Some(address), &pod.paper, &pod.material).await;
    let (holds, _sender) = operator.connected().await;
    assert_eq!(holds, Some(version(1)));
    pod.shows("connected 1").await;
    pod.shows("connects_total 2").await;
    pod.shows("configurations_total 1").await;
}

#[tokio::test]
async fn a_replica_that_names_the_leader_is_not_one_that_the_agent_is_connected_to() {
    let pod = Pod::new();
    let _proxy = pod.proxy.start("first");
    let first = pod.operator().await;
    let mut second = pod.operator().await;
    first.leadership.send_replace(Leadership::There { address: second.address.to_string() });
    let _agent = pod.agent(first.address);
    let (_, _sender) = second.connected().await;
    pod.shows("connected 1").await;
    pod.shows("connects_total 1").await;
}
