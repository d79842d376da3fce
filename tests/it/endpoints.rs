//! What dashboards, load balancers and SQL clients look at.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crate::harness::{Address, Lab, Part, config, free_port, millis, query, secs};

/// Status code and body.
fn get(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, secs(2))?;
        stream.set_read_timeout(Some(secs(3)))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().unwrap_or_else(|e| panic!("{method} {address}{path}: {e}"));
    let code = text.split_whitespace().nth(1).and_then(|c| c.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code.unwrap_or_else(|| panic!("no HTTP: {text}")), body.to_owned())
}

/// Every series of a metric: its labels and its value.
fn series(metrics: &str, name: &str) -> Vec<(String, f64)> {
    metrics
        .lines()
        .filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
        .map(|line| {
            let (labels, value) = line.rsplit_once(' ').unwrap();
            (labels[name.len()..].to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn of_node(metrics: &str, name: &str, label: &str, node: &str) -> f64 {
    let wanted = format!("{label}=\"{node}\"");
    let all = series(metrics, name);
    let mut all = all.iter();
    all.find(|(labels, _)| labels.contains(&wanted))
        .unwrap_or_else(|| panic!("{name} of {node} is missing in\n{metrics}"))
        .1
}

/// The same of a metric that may be missing, or has other labels.
fn of_node_or(metrics: &str, name: &str, labels: &str, otherwise: f64) -> f64 {
    let found = series(metrics, name).into_iter().find(|(have, _)| have.contains(labels));
    found.map_or(otherwise, |(_, value)| value)
}

#[test]
fn monitor_and_keepers_serve_metrics_roles_and_views() {
    let mut lab = Lab::builder().start();
    roles_are(&lab, "node1");
    keepers_have_metrics(&lab);
    the_monitor_has_metrics(&lab);
    the_views_of_pg_auto_failover_answer(&lab);

    // After a failover everything tells the new truth, and while Postgres is down too.
    lab.ok(&["set-node", "node3", "--candidate-priority", "0"]);
    lab.kill("node1", Part::All);
    lab.wait_for("node2 took over", secs(20), |s| s.is("node2", "primary"));
    lab.wait_until("/primary of node2", secs(3), || {
        get(lab.http("node2"), "GET", "/primary").0 == 200
    });
    assert_eq!(get(lab.http("node3"), "GET", "/primary").0, 503);
    lab.wait_until("the metrics know that node1 is lost", secs(10), || {
        let metrics = get(lab.http("monitor"), "GET", "/metrics").1;
        let health = "pg_auto_failover_node_state_health_code";
        of_node(&metrics, health, "nodename", "node1") <= 0.0
    });
    // It is counted when it is over: when the new primary's sync rule is confirmed.
    lab.wait_until("the failover is counted", secs(10), || {
        let metrics = get(lab.http("monitor"), "GET", "/metrics").1;
        let of_failovers = metrics.lines().filter(|l| l.starts_with("pgvigil_failovers"));
        let counts = of_failovers.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
        counts.sum::<f64>() >= 1.0
    });
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    roles_are(&lab, "node2");
}

#[test]
fn the_exporter_follows_the_writable_node_and_never_waits() {
    let mut lab = Lab::builder().start();
    let here = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (listen, monitor) = (here.to_string(), lab.http("monitor").to_string());
    let options = ["--stock-exporter", "none", "--listen", &listen, "--monitor-http", &monitor];
    let probe = ["--probe-interval", "50ms", "--pg-user", "postgres"];
    let _exporter = lab.beside("vigil-exporter", &[&options[..], &probe].concat());
    let took = RefCell::new(Vec::new());
    let page = |lab: &Lab| {
        let running = lab.is_running("monitor");
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let page = get(here, "GET", "/metrics").1;
            took.borrow_mut().push(asked.elapsed());
            ours_are_described(&page);
            let up = of_node_or(&page, "pgvigil_exporter_monitor_up", "", 0.0) > 0.5;
            assert!(running || !up, "the monitor is not there: {page}");
            // It waits for no monitor: what a slow one says is missing on that page.
            if up == running {
                return page;
            }
            assert!(begun.elapsed() < secs(10), "what the monitor says stays away: {page}");
        }
    };
    let serves = || TcpStream::connect_timeout(&here, millis(200)).is_ok();
    lab.wait_until("the exporter serves", secs(5), serves);
    let leads = |page: &str, node| of_node(page, "pgvigil_node_writable", "nodename", node) > 0.5;
    let acknowledged = |page: &str| of_node_or(page, "pgvigil_probe_writable", "", 0.0) > 0.5;
    lab.wait_until("the page names node1", secs(10), || leads(&page(&lab), "node1"));
    lab.wait_until("the probe writes", secs(5), || acknowledged(&page(&lab)));
    let targets = get(here, "GET", "/targets").1;
    let targets: serde_json::Value = serde_json::from_str(&targets).unwrap();
    assert_eq!(targets[1]["labels"]["__metrics_path__"], "/nodes/node2", "{targets}");
    assert_eq!(get(here, "GET", "/nodes/nobody").0, 404);

    lab.ok(&["set-node", "node3", "--candidate-priority", "0"]);
    lab.kill("node1", Part::All);
    lab.wait_until("the page names node2", secs(20), || leads(&page(&lab), "node2"));
    lab.wait_until("the probe has measured the outage", secs(10), || {
        let page = page(&lab);
        let outage = of_node_or(&page, "pgvigil_probe_last_outage_seconds", "", 0.0);
        acknowledged(&page) && outage > 0.0 && outage < 20.0
    });
    // Nothing fails over without the monitor: the page goes on with what it knew, without its part.
    lab.kill("monitor", Part::All);
    lab.wait_until("the probe goes on", secs(10), || acknowledged(&page(&lab)));
    let without = page(&lab);
    assert!(!without.contains("pg_auto_failover"), "{without}");
    assert!(series(&without, "pg_up").is_empty(), "nobody has looked: {without}");
    lab.start("monitor");
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    let history = page(&lab);
    let changes = series(&history, "pgvigil_primary_change_timestamp_seconds");
    assert_eq!(changes.len(), 1, "a monitor that starts recalls what happened: {history}");
    // Single pages may have been held up by this machine.
    let mut took = took.into_inner();
    took.sort_unstable();
    assert!(took[took.len() * 9 / 10] < secs(1), "{took:?}");
}

fn roles_are(lab: &Lab, primary: &str) {
    for node in lab.node_names() {
        let is_primary = node == primary;
        for (path, wanted) in [
            ("/primary", is_primary),
            ("/read-write", is_primary),
            ("/replica", !is_primary),
            ("/read-only", true),
            ("/health", true),
            ("/liveness", true),
        ] {
            let wanted = if wanted { 200 } else { 503 };
            // A role check is what the keeper knows now; it may be one heartbeat behind.
            let what = format!("{path} of {node} is {wanted}");
            lab.wait_until(&what, secs(3), || get(lab.http(&node), "GET", path).0 == wanted);
            let (code, body) = get(lab.http(&node), "GET", path);
            assert_eq!(code, wanted, "{path} of {node}");
            assert!(
                serde_json::from_str::<serde_json::Value>(&body).is_ok_and(|json| json.is_object()),
                "{path} of {node}: {body}"
            );
            assert_eq!(get(lab.http(&node), "HEAD", path).0, wanted, "HEAD {path} of {node}");
        }
        assert_eq!(get(lab.http(&node), "GET", "/no-such-path").0, 404);
    }
}

/// Every metric of ours says what it is.
fn ours_are_described(metrics: &str) {
    let names: Vec<&str> = metrics
        .lines()
        .filter(|l| l.starts_with("pgvigil_"))
        .filter_map(|l| l.split(['{', ' ']).next())
        .collect();
    assert!(!names.is_empty(), "no metric of ours in\n{metrics}");
    for name in names {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .filter(|base| metrics.contains(&format!("# TYPE {base} ")))
            .unwrap_or(name);
        for comment in ["HELP", "TYPE"] {
            assert!(
                metrics.contains(&format!("# {comment} {base} ")),
                "{comment} of {name} is missing in\n{metrics}"
            );
        }
    }
}

fn keepers_have_metrics(lab: &Lab) {
    for node in lab.node_names() {
        let (code, metrics) = get(lab.http(&node), "GET", "/metrics");
        assert_eq!(code, 200);
        ours_are_described(&metrics);
    }
    let metrics = get(lab.http("node1"), "GET", "/metrics").1;
    for figure in ["cpus", "load1", "memory_available_bytes", "disk_available_bytes"] {
        assert_eq!(series(&metrics, &format!("pgvigil_machine_{figure}")).len(), 1, "{figure}");
    }
    lab.wait_until("both slots are shown", secs(10), || {
        let metrics = get(lab.http("node1"), "GET", "/metrics").1;
        series(&metrics, "pgvigil_keeper_slot_retained_bytes").len() == 2
    });
    for standby in ["node2", "node3"] {
        let lag = "pg_stat_replication_replay_lag_bytes";
        let bytes = of_node(&metrics, lag, "application_name", standby);
        assert!(bytes >= 0.0, "{bytes}");
    }
}

fn the_monitor_has_metrics(lab: &Lab) {
    assert_eq!(get(lab.http("monitor"), "GET", "/healthz").0, 200);
    let (code, metrics) = get(lab.http("monitor"), "GET", "/metrics");
    assert_eq!(code, 200);
    ours_are_described(&metrics);
    for (node, state) in [("node1", 3.0), ("node2", 2.0), ("node3", 2.0)] {
        let health = "pg_auto_failover_node_state_health_code";
        let value = of_node(&metrics, health, "nodename", node);
        assert!((value - 1.0).abs() < f64::EPSILON, "health of {node}: {value}");
        let reported = "pg_auto_failover_node_state_reported_state_code";
        let value = of_node(&metrics, reported, "nodename", node);
        assert!((value - state).abs() < f64::EPSILON, "state of {node}: {value}");
    }
    let hosts = series(&metrics, "pg_auto_failover_node_state_health_code");
    assert!(hosts.iter().all(|(labels, _)| labels.contains("nodehost=")), "{hosts:?}");
}

fn the_views_of_pg_auto_failover_answer(lab: &Lab) {
    let mut monitor = config(&Address::Tcp(lab.tcp("monitor")));
    monitor.user("autoctl_node").dbname("pg_auto_failover");
    let ask = |sql: &str| query(&monitor, sql, secs(5));
    // It is written behind what the monitor serves: what is read below is awaited whole.
    let all = "select count(*) from pgautofailover.node
        where reportedstate = goalstate and health = 1 and reportedlsn > '0/0'
          and reportedstate = case nodename when 'node1' then 'primary' else 'secondary' end";
    lab.wait_until("the view is up to date", secs(10), || {
        ask(all).is_ok_and(|rows| rows[0][0].as_deref() == Some("3"))
    });
    let nodes = ask("
        select nodeid, nodename, nodehost, nodeport, groupid, formationid, reportedstate, goalstate,
               health, reportedlsn, reportedtli, statechangetime, candidatepriority, replicationquorum
        from pgautofailover.node order by nodename")
    .unwrap();
    let column = |row: usize, column: usize| nodes[row][column].clone().unwrap_or_default();
    assert_eq!(nodes.len(), 3);
    assert_eq!((column(0, 1).as_str(), column(0, 6).as_str()), ("node1", "primary"));
    assert_eq!((column(1, 1).as_str(), column(1, 6).as_str()), ("node2", "secondary"));
    assert!((0..3).all(|row| column(row, 8) == "1"), "{nodes:?}");
    let formations =
        ask("select formationid, kind, number_sync_standbys from pgautofailover.formation")
            .unwrap();
    assert_eq!(formations.len(), 1);
    assert_eq!(formations[0][0].as_deref(), Some("default"));
    assert_eq!(formations[0][2].as_deref(), Some("0"));
    let events = ask("
        select eventid, eventtime, formationid, groupid, nodeid, nodename, reportedstate, goalstate,
               description
        from pgautofailover.event order by eventid")
    .unwrap();
    assert!(!events.is_empty());
    // It may look, not touch.
    for statement in [
        "delete from pgautofailover.node",
        "update pgautofailover.node set health = 0",
        "create table pgautofailover.mine (id int)",
        "create table public.mine (id int)",
    ] {
        ask(statement).expect_err(statement);
    }
}
