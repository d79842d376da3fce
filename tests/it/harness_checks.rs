//! The harness itself: what it would let pass is never found by a scenario.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{
    Ack, Address, Lab, Network, Output, Part, Process, Random, Session, Workdir, Writers, config,
    free_port, longest_gap, millis, not_run, own, postgres_bin, query, run, secs, two_at_once,
    under, wait_until,
};

#[test]
fn random_numbers_repeat_with_their_seed_and_spread() {
    let draw = |seed| {
        let mut random = Random::new(seed);
        (0..100).map(|_| random.between(3, 9)).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    let drawn = draw(0);
    for n in 3..=9 {
        assert!(drawn.contains(&n), "{n} never came");
    }
    assert!(drawn.iter().all(|n| (3..=9).contains(n)));
    let mut items: Vec<u32> = (0..20).collect();
    Random::new(1).shuffle(&mut items);
    let shuffled = items.clone();
    items.sort_unstable();
    assert_eq!(items, (0..20).collect::<Vec<_>>());
    assert_ne!(items, shuffled);
}

#[test]
fn the_longest_gap_counts_both_ends() {
    let zero = Instant::now();
    let at = |ms: u64| zero + millis(ms);
    let gap = |events: &[u64]| longest_gap(events.iter().map(|ms| at(*ms)), at(100), at(200));
    assert_eq!(gap(&[]), millis(100));
    assert_eq!(gap(&[110, 120, 190]), millis(70));
    assert_eq!(gap(&[150]), millis(50));
    assert_eq!(gap(&[190, 110]), millis(80));
    assert_eq!(gap(&[105, 115]), millis(85));
    assert_eq!(gap(&[50, 150, 250]), millis(50));
}

fn ack(zero: Instant, node: usize, begun: u64, at: u64) -> Ack {
    Ack { begun: zero + millis(begun), at: zero + millis(at), node, writer: 0, seq: 0 }
}

#[test]
fn two_nodes_at_once_are_told_from_a_handover() {
    let zero = Instant::now();
    let two = |acks: &[(usize, u64, u64)]| {
        let acks: Vec<Ack> = acks.iter().map(|(n, b, a)| ack(zero, *n, *b, *a)).collect();
        two_at_once(&acks).is_some()
    };
    // A handover, even one whose last old answer is delivered late.
    assert!(!two(&[(0, 0, 5), (0, 6, 10), (1, 20, 120)]));
    assert!(!two(&[(0, 0, 5), (1, 20, 30), (0, 6, 31), (1, 40, 60)]));
    assert!(!two(&[(0, 0, 5), (0, 6, 10), (1, 11, 20), (1, 21, 30)]));
    // And back again much later.
    assert!(!two(&[(0, 0, 5), (1, 20, 30), (0, 400, 410)]));
    // The old one acknowledges what was sent after the new one had acknowledged.
    assert!(two(&[(0, 0, 5), (1, 20, 30), (0, 32, 36), (1, 40, 60)]));
}

#[test]
fn an_error_line_is_one_line() {
    let output = |stderr: &str| Output {
        code: Some(2),
        stdout: String::new(),
        stderr: stderr.to_owned(),
        took: Duration::ZERO,
    };
    output("error: no\n").expect_one_error_line();
    output("error: no\nhint: yes\n").expect_one_error_line();
    for bad in ["", "no\n", "error: no\nerror: no\n", "error: no\nUsage: x\n"] {
        let output = output(bad);
        let checked = std::panic::catch_unwind(|| output.expect_one_error_line().code);
        assert!(checked.is_err(), "{bad:?}");
    }
}

#[test]
fn what_runs_in_a_directory_is_found_with_its_children_and_dies_with_it() {
    let dir = Workdir::create();
    let home = dir.make_home("home");
    let mut command = dir.command("/bin/sh", &home);
    command.args(["-c", "sleep 600 & sleep 600"]).stdin(Stdio::null());
    let shell = own(&mut command);
    wait_until("the shell has its children", secs(5), || {
        under(&home).len() == 3 && shell.process.tree().len() == 3
    });
    let all = under(&home);
    assert!(all.contains(&shell.process));
    // An orphan is found too, and told from a later process with its pid.
    drop(shell);
    wait_until("the shell is gone", secs(5), || under(&home).len() == 2);
    let orphan = under(&home)[0];
    assert!(orphan.is_alive());
    let other = Process { started: orphan.started + 1, ..orphan };
    assert!(!other.is_alive());
    dir.kill_everything();
    assert!(under(&home).is_empty());
    // Reaped, not only dead.
    wait_until("the orphan is reaped", secs(5), || {
        !PathBuf::from(format!("/proc/{}", orphan.pid)).exists()
    });
    let path = dir.path.clone();
    drop(dir);
    assert!(!path.exists());
}

#[test]
fn a_program_that_does_not_end_is_killed_and_has_no_code() {
    let dir = Workdir::create();
    let home = dir.make_home("home");
    let output = run(dir.command("/bin/sleep", &home).arg("600"), millis(200));
    assert_eq!(output.code, None);
    let output =
        run(dir.command("/bin/sh", &home).args(["-c", "echo a; echo b >&2; exit 5"]), secs(5));
    output.expect_code(5);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("a\n", "b\n"));
}

/// Postgres without anybody who watches over it.
struct Plain {
    port: u16,
    data: PathBuf,
}

fn plain_postgres(dir: &Workdir, name: &str, settings: &str) -> Plain {
    let home = dir.make_home(name);
    let data = home.join("pg");
    let bin = postgres_bin();
    let mut initdb = dir.command(bin.join("initdb"), &home);
    initdb.args(["--no-sync", "--auth=trust", "-U", "postgres", "-D"]).arg(&data);
    run(&mut initdb, secs(60)).expect_code(0);
    let port = free_port();
    let sockets = dir.sockets();
    let text = format!(
        "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\n{settings}\n",
        sockets.display()
    );
    fs::write(data.join("postgresql.auto.conf"), text).unwrap();
    let mut start = dir.command(bin.join("pg_ctl"), &home);
    start.args(["-w", "-l"]).arg(home.join("log")).arg("-D").arg(&data).arg("start");
    run(&mut start, secs(60)).expect_code(0);
    Plain { port, data }
}

impl Plain {
    fn tcp(&self) -> Address {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    fn sql(&self, statement: &str) -> Vec<Vec<Option<String>>> {
        query(&config(&self.tcp()), statement, secs(10)).unwrap()
    }
}

/// Keeps a Postgres, and no more.
const KEEPER: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
        --pgdata) data=$2 ;;
        --pg-port) port=$2 ;;
        --pg-bin) bin=$2 ;;
        --pg-socket-dir) sockets=$2 ;;
    esac
    shift
done
[ -d "$data" ] || "$bin/initdb" --no-sync --auth=trust -U postgres -D "$data" > /dev/null
"$bin/postgres" -D "$data" -p "$port" -k "$sockets" -h 127.0.0.1 &
postgres=$!
trap 'kill -INT $postgres; wait $postgres; kill $nap; wait $nap; exit 0' TERM
while :; do
    sleep 600 &
    nap=$!
    wait $nap
done
"#;

#[test]
fn faults_hit_the_part_that_they_name() {
    let mut lab = Lab::builder().nodes(1).stubs().prepare();
    let script = lab.workdir().bin("vigil-keeper");
    fs::write(&script, KEEPER).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    // The state is not there to be asked for when something fails.
    fs::write(lab.workdir().bin("pgctl"), "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(lab.workdir().bin("pgctl"), PermissionsExt::from_mode(0o755)).unwrap();
    let answers = |lab: &Lab| lab.is_in_recovery("node1") == Some(false);

    lab.start("node1");
    lab.wait_until("Postgres answers", secs(30), || answers(&lab));
    let first = lab.postmaster("node1").unwrap();
    assert!(lab.postgres_processes("node1").len() > 3);

    lab.freeze("node1", Part::Postgres);
    assert!(!answers(&lab) && lab.is_running("node1"));
    lab.thaw("node1");
    lab.wait_until("Postgres answers after a pause", secs(30), || answers(&lab));
    lab.freeze("node1", Part::All);
    lab.thaw("node1");
    lab.wait_until("Postgres answers after a pause", secs(30), || answers(&lab));

    lab.kill("node1", Part::Keeper);
    assert!(!lab.is_running("node1"));
    lab.wait_until("Postgres answers without its keeper", secs(30), || answers(&lab));
    assert_eq!(lab.postmaster("node1"), Some(first));

    lab.kill("node1", Part::Postmaster);
    assert!(!first.is_alive());
    lab.kill("node1", Part::All);
    assert!(lab.postgres_processes("node1").is_empty());

    lab.start("node1");
    lab.wait_until("Postgres answers again", secs(30), || answers(&lab));
    lab.kill("node1", Part::Postgres);
    assert!(lab.postgres_processes("node1").is_empty() && lab.is_running("node1"));
    lab.kill("node1", Part::All);
    assert!(!lab.is_running("node1"));

    lab.start("node1");
    lab.wait_until("Postgres answers once more", secs(30), || answers(&lab));
    lab.stop("node1", Part::Postgres);
    lab.wait_until("Postgres has stopped", secs(10), || lab.postgres_processes("node1").is_empty());
    lab.kill("node1", Part::All);
    lab.start("node1");
    lab.wait_until("Postgres answers at last", secs(30), || answers(&lab));
    lab.stop("node1", Part::All);
    assert!(lab.postgres_processes("node1").is_empty());
    let home = lab.workdir().path.join("node1");
    assert!(under(&home).is_empty());
}

const TABLE: &str = "create table acks (writer int, seq bigint, primary key (writer, seq))";

#[test]
fn writers_go_to_the_node_that_takes_writes_and_keep_account() {
    let dir = Workdir::create();
    let one = plain_postgres(&dir, "one", "");
    one.sql(TABLE);
    let nobody = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let targets = vec![("nobody".to_owned(), nobody), ("one".to_owned(), one.tcp())];
    let writers = Writers::start(targets, 4, None);
    writers.wait_until_steady();
    let begun = Instant::now();
    writers.wait_for_writes(secs(5));
    assert!(writers.failures().is_empty(), "{:?}", writers.failures());
    assert!(writers.gap(begun) < secs(1));
    assert!(writers.acks_of("one", begun) > 0);
    assert_eq!(writers.acks_of("nobody", begun), 0);
    let acks = writers.acks();
    drop(writers);
    let there = one.sql("select writer, seq from acks");
    assert!(there.len() >= acks.len());
    for ack in acks {
        let row = vec![Some(ack.writer.to_string()), Some(ack.seq.to_string())];
        assert!(there.contains(&row), "{ack:?}");
    }
}

#[test]
fn a_commit_with_a_warning_is_not_acknowledged_and_a_waiting_one_is_waited_for() {
    let dir = Workdir::create();
    let one = plain_postgres(&dir, "one", "");
    one.sql(TABLE);
    let writers = Writers::start(vec![("one".to_owned(), one.tcp())], 2, None);
    writers.wait_until_steady();

    // Commits wait for a standby that nobody is.
    one.sql("alter system set synchronous_standby_names = 'nobody'");
    one.sql("select pg_reload_conf()");
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    wait_until("both writers wait", secs(10), || one.sql(waiting)[0][0].as_deref() == Some("2"));
    let before = writers.acks().len();
    std::thread::sleep(millis(700));
    assert_eq!(writers.acks().len(), before);
    assert!(writers.failures().is_empty(), "{:?}", writers.failures());
    // At most one at a node per writer, however long it takes.
    assert_eq!(one.sql(waiting)[0][0].as_deref(), Some("2"));

    // A cancelled wait is a success with a warning.
    one.sql(
        "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep' limit 1",
    );
    wait_until("the warning is noticed", secs(5), || {
        writers.failures().iter().any(|f| f.contains("warning"))
    });
    assert_eq!(writers.acks().len(), before);

    // One that was waited for in vain for long still counts when it is acknowledged at last.
    one.sql("alter system reset synchronous_standby_names");
    one.sql("select pg_reload_conf()");
    wait_until("late acknowledgements are counted", secs(5), || {
        writers.acks().iter().any(|ack| ack.at - ack.begun > millis(500))
    });
    writers.wait_until_steady();
}

#[test]
fn a_session_outlives_its_queries_and_unix_sockets_work() {
    let dir = Workdir::create();
    let one = plain_postgres(&dir, "one", "");
    let session = Session::open(&Address::Socket(dir.sockets(), one.port)).unwrap();
    session.query("begin; create table t (id int)", secs(5)).unwrap();
    let slow = session.query("select pg_sleep(5)", millis(100));
    assert!(slow.is_err());
    drop(session);
    assert!(one.data.join("postmaster.pid").exists());
    one.sql("create table t (id int)");
}

#[test]
fn a_network_is_cut_one_way_both_ways_and_mended() {
    let name = "a_network_is_cut_one_way_both_ways_and_mended";
    if let Some(why) = Network::missing() {
        return not_run(name, why);
    }
    let _dir = Workdir::create();
    let net = Network::create(&["a", "b", "client"]);
    let at_b = SocketAddr::new(net.address("b"), 7000);
    let listener = net.on("b", || TcpListener::bind(at_b).unwrap());
    let reaches = || net.on("a", || TcpStream::connect_timeout(&at_b, millis(300)).is_ok());
    // The machine itself has no way in, whoever else may answer there.
    let _ = TcpStream::connect_timeout(&at_b, millis(300));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    // The kernel tells of a new link with up to a second of delay.
    let comes_back = || wait_until("a reaches b", secs(5), reaches);
    comes_back();
    wait_until("b sees it", secs(5), || listener.accept().is_ok());
    net.cut_one_way("a", "b");
    assert!(!reaches());
    net.mend();
    comes_back();
    net.cut("b", "a");
    assert!(!reaches());
    let at_client = SocketAddr::new(net.address("client"), 7000);
    let other = net.on("client", || TcpListener::bind(at_client).unwrap());
    wait_until("a still reaches the client", secs(5), || {
        net.on("a", || TcpStream::connect_timeout(&at_client, millis(300)).is_ok())
    });
    net.mend();
    comes_back();
    net.cable("b", false);
    assert!(!reaches());
    net.cable("b", true);
    comes_back();
    drop((listener, other));
    net.remove();
}
