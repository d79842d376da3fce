//! What this machine must have before anything is changed.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;

use rustix::fs::{Access, access};
use vigil_daemon::Failure;
use vigil_postgres::install::Installation;
use vigil_postgres::pgdata::{self, DataDir as Pgdata};
use vigil_postgres::process;

use crate::config::Config;
use crate::data_dir::DataDir;

/// The longest path of a Unix socket.
const SOCKET_PATH_MAX: usize = 107;

/// What was found to be in order.
#[derive(Debug)]
pub struct Checked {
    pub install: Installation,
    /// Bound already, so that nobody takes the ports while the store starts.
    pub grpc: TcpListener,
    pub http: TcpListener,
}

/// Looks at everything, changes nothing.
pub fn check(config: &Config) -> Result<Checked, Failure> {
    let dir = DataDir::new(config.absolute_data_dir());
    dir.check()?;
    let install = installation(config, &dir.pgdata())?;
    check_socket_dir(&config.socket_dir(), config.pg_port)?;
    let grpc = bind("--listen", &config.listen)?;
    let http = bind("--http-listen", &config.http_listen)?;
    let runs_already =
        !process::processes_of(&dir.pgdata()).map_err(Failure::prerequisite)?.is_empty();
    if !runs_already {
        for host in config.pg_listen.split(',').map(str::trim).filter(|h| !h.is_empty()) {
            let host = if host == "*" { "0.0.0.0" } else { host };
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let address = format!("{host}:{}", config.pg_port);
            // For Postgres to bind; only tried here.
            drop(bind("--pg-port", &address)?);
        }
    }
    Ok(Checked { install, grpc, http })
}

fn installation(config: &Config, pgdata: &Path) -> Result<Installation, Failure> {
    let found = pgdata::inspect(pgdata).map_err(Failure::prerequisite)?;
    let major = match found {
        Pgdata::Missing | Pgdata::Empty => None,
        Pgdata::Cluster { major, .. } => Some(major),
        Pgdata::NotACluster { reason } => {
            return Err(Failure::prerequisite(format!(
                "{} is no usable data directory: {reason}",
                pgdata.display()
            )));
        }
    };
    Ok(Installation::find(config.pg_bin.as_deref(), major)
        .map_err(Failure::prerequisite)?
        .running_as(config.run_as))
}

fn check_socket_dir(dir: &Path, port: u16) -> Result<(), Failure> {
    let shown = dir.display();
    let hint = "name another one with --pg-socket-dir";
    if !dir.is_dir() {
        return Err(Failure::prerequisite(format!("the socket directory {shown} does not exist"))
            .hint(hint));
    }
    if access(dir, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Err(Failure::prerequisite(format!("the socket directory {shown} is not writable"))
            .hint(hint));
    }
    let socket = dir.join(format!(".s.PGSQL.{port}"));
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        let text = format!("the socket directory {shown} has too long a name for a Unix socket");
        return Err(Failure::prerequisite(text).hint(hint));
    }
    Ok(())
}

/// Binds `address` as option `option` wants it.
fn bind(option: &str, address: &str) -> Result<TcpListener, Failure> {
    let resolved: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|e| Failure::prerequisite(format!("{option}: cannot resolve {address}: {e}")))?
        .collect();
    let listener = TcpListener::bind(resolved.as_slice()).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            Failure::prerequisite(format!("{option}: {address} is in use by another program"))
                .hint(format!("stop it, or choose another port with {option}"))
        }
        _ => Failure::prerequisite(format!("{option}: cannot listen on {address}: {e}")),
    })?;
    listener.set_nonblocking(true).map_err(Failure::unexpected)?;
    Ok(listener)
}
