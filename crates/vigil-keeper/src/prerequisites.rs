//! What must be true on this machine, checked before anything is changed.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use vigil_daemon::Failure;
use vigil_postgres::Installation;
use vigil_postgres::pgdata::{self, DataDir};
use vigil_postgres::process;

/// A Unix socket's path has room for so many bytes.
const SOCKET_PATH_MAX: usize = 107;

/// What is at PGDATA, which must be ours to use. `rebuilding`: a clone was broken off there.
///
/// # Errors
/// Not a cluster, not ours, or not writable.
pub fn data_dir(pgdata: &Path, rebuilding: bool) -> Result<DataDir, Failure> {
    let shown = pgdata.display();
    let data = pgdata::inspect(pgdata).map_err(|e| {
        Failure::prerequisite(e).hint("give the directory to the user that this keeper runs as")
    })?;
    match &data {
        DataDir::NotACluster { reason } if !rebuilding => Err(Failure::prerequisite(format!(
            "PGDATA {shown} is not empty and is no PostgreSQL data directory: {reason}"
        ))
        .hint("name an empty or a new directory with --pgdata, or clear this one")),
        DataDir::Missing => {
            let parent = existing_parent(pgdata);
            writable(&parent).map_err(|e| {
                Failure::prerequisite(format!(
                    "PGDATA {shown} does not exist and cannot be created: {}: {e}",
                    parent.display()
                ))
                .hint(format!("create it for user {}", vigil_postgres::user::current_user()))
            })?;
            Ok(data)
        }
        _ => {
            owned(pgdata)?;
            Ok(data)
        }
    }
}

fn owned(pgdata: &Path) -> Result<(), Failure> {
    let user = vigil_postgres::user::current_user();
    let hint = format!("chown -R {user} {}", pgdata.display());
    let meta = std::fs::metadata(pgdata).map_err(Failure::prerequisite)?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(Failure::prerequisite(format!(
            "PGDATA {} belongs to another user than {user}, who this keeper runs as",
            pgdata.display()
        ))
        .hint(hint));
    }
    writable(pgdata).map_err(|e| {
        Failure::prerequisite(format!("PGDATA {} cannot be written: {e}", pgdata.display()))
            .hint(hint)
    })
}

fn writable(dir: &Path) -> io::Result<()> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::access(dir, access)?)
}

fn existing_parent(path: &Path) -> PathBuf {
    let above = path.ancestors().skip(1).find(|p| p.exists());
    above.unwrap_or(Path::new("/")).to_owned()
}

/// The PostgreSQL programs: of the version that the data needs, else the newest.
///
/// # Errors
/// Missing, or of a wrong version.
pub fn installation(pg_bin: Option<&Path>, data: &DataDir) -> Result<Installation, Failure> {
    let wanted = match data {
        DataDir::Cluster { major, .. } => Some(*major),
        _ => None,
    };
    Installation::find(pg_bin, wanted).map_err(|e| {
        Failure::prerequisite(e).hint("--pg-bin names the directory of the programs to use")
    })
}

/// Whether the port of Postgres is free, or taken by the very server that this keeper is for.
///
/// # Errors
/// Somebody else has it, or our server uses another one.
pub fn postgres_port(
    pgdata: &Path,
    listen: &str,
    port: u16,
    socket_dir: &Path,
) -> Result<(), Failure> {
    if matches!(process::adopt(pgdata), Ok(Some(_))) {
        return match running_port(pgdata) {
            Some(running) if running != port => Err(Failure::prerequisite(format!(
                "the Postgres in {} runs on port {running}, not {port}",
                pgdata.display()
            ))
            .hint("stop it first, or give its port with --pg-port")),
            _ => Ok(()),
        };
    }
    for address in addresses(listen, port) {
        if let Err(error) = TcpListener::bind(address)
            && error.kind() == io::ErrorKind::AddrInUse
        {
            return Err(busy(port, &address.to_string()));
        }
    }
    let socket = socket_dir.join(format!(".s.PGSQL.{port}"));
    if UnixStream::connect(&socket).is_ok() {
        return Err(busy(port, &socket.display().to_string()));
    }
    Ok(())
}

fn busy(port: u16, at: &str) -> Failure {
    Failure::prerequisite(format!("port {port} is busy: another program listens on {at}"))
        .hint(format!("`ss -ltnp sport = :{port}` tells who; --pg-port chooses another port"))
}

/// Line 4 of `postmaster.pid`.
fn running_port(pgdata: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    text.lines().nth(3)?.trim().parse().ok()
}

fn addresses(listen: &str, port: u16) -> Vec<SocketAddr> {
    let names = listen.split(',').map(str::trim).filter(|n| !n.is_empty());
    names
        .flat_map(|name| {
            let host = if name == "*" { "0.0.0.0" } else { name };
            // One that cannot be resolved is Postgres' to complain about.
            (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default()
        })
        .collect()
}

/// The directory of the Unix socket.
///
/// # Errors
/// Missing, not writable, or its path too long.
pub fn socket_dir(dir: &Path, port: u16) -> Result<(), Failure> {
    let hint = "name a short, writable directory with --pg-socket-dir";
    let path = dir.join(format!(".s.PGSQL.{port}"));
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let text = format!("the path of the Unix socket is too long: {}", path.display());
        return Err(Failure::prerequisite(text).hint(hint));
    }
    if !dir.exists() {
        std::fs::create_dir_all(dir).map_err(|e| {
            Failure::prerequisite(format!("cannot create socket directory {}: {e}", dir.display()))
                .hint(hint)
        })?;
    }
    writable(dir).map_err(|e| {
        Failure::prerequisite(format!("socket directory {} is not writable: {e}", dir.display()))
            .hint(hint)
    })
}

/// The listener of the HTTP server.
///
/// # Errors
/// The address is busy or not of this machine.
pub fn http_listener(address: &str) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => {
            let port = address.rsplit(':').next().unwrap_or_default();
            Failure::prerequisite(format!(
                "HTTP port {port} is busy: another program listens on {address}"
            ))
            .hint("--http-listen chooses another address")
        }
        _ => Failure::prerequisite(format!("cannot listen on {address} for HTTP: {e}"))
            .hint("--http-listen chooses another address"),
    })?;
    listener.set_nonblocking(true).map_err(Failure::prerequisite)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use vigil_daemon::Exit;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_foreign_directory_is_refused_and_left_alone() {
        let dir = TempDir::new();
        let file = dir.path().join("letters.txt");
        std::fs::write(&file, "dear").unwrap();
        let failure = data_dir(dir.path(), false).unwrap_err();
        assert_eq!(failure.exit, Exit::Prerequisite);
        assert!(failure.message.contains("no PostgreSQL data directory"), "{failure}");
        assert!(file.exists());
        assert!(data_dir(dir.path(), true).is_ok(), "what a broken-off clone left");
    }

    #[test]
    fn a_busy_port_is_named() {
        let dir = TempDir::new();
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let failure = postgres_port(dir.path(), "127.0.0.1", port, dir.path()).unwrap_err();
        assert!(failure.message.contains(&port.to_string()), "{failure}");
        let failure = http_listener(&format!("127.0.0.1:{port}")).unwrap_err();
        assert!(failure.message.contains(&port.to_string()), "{failure}");
        drop(holder);
        assert!(postgres_port(dir.path(), "127.0.0.1", port, dir.path()).is_ok());
    }
}
