//! The program as a whole, at its start and its end.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vigil-exporter"));
    command.env_clear().args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ok(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).is_ok_and(|_| answer.contains(" 200 "))
}

fn stop(child: Child) -> Output {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn it_serves_until_it_is_told_to_stop_though_nobody_reads_its_log() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut child = command(&["--listen", &address, "--stock-exporter", "none"]).spawn().unwrap();
    drop(child.stderr.take());
    let began = Instant::now();
    while !ok(&address) {
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", child.try_wait());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(stop(child).status.code(), Some(0));
}

#[test]
fn a_bad_variable_is_named_on_one_line() {
    let output = command(&[]).env("PGVIGIL_LISTEN", "nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: invalid value 'nowhere' for '--listen <HOST:PORT>': an address and a port are \
         expected, like 127.0.0.1:9187 (from PGVIGIL_LISTEN)\n\
         hint: `vigil-exporter --help` tells all options\n"
    );
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let mut child = command(&["--help"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{output:?}");
    // Nobody hears of the error, but its code.
    let mut child = command(&["--nonsense"]).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}
