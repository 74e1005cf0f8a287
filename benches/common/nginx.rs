//! nginx as the peer: the same files, static, on loopback, with its own configuration in a directory of its own.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::lightning::regtest::free_port;

/// A running nginx; it ends with this value.
pub struct Nginx {
    child: Child,
    pub address: String,
}

impl Nginx {
    /// Serves a directory.
    pub fn start(directory: &Path, root: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let (dir, root) = (directory.display(), root.display());
        // Started by root, its workers would be somebody else, who may not read here.
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let user = if is_root { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off;\n{user}\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nworker_processes auto;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n{temporary}access_log off;\nsendfile on;\ntcp_nopush on;\nkeepalive_requests 100000000;\n\
             open_file_cache max=1000 inactive=600s;\nopen_file_cache_valid 600s;\n\
             types {{ video/mp4 m4s; }}\n\
             server {{ listen {address}; root {root}; }}\n}}\n"
        );
        let config = directory.join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", "nginx", "-p", &dir.to_string(), "-c"]);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        command.arg(&config).args(["-e", &format!("{dir}/error.log")]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("nginx: `make bench` installs it");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "nginx does not answer: see {dir}/error.log");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master takes its workers along.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
