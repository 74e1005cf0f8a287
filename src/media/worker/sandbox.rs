//! What a worker may do once it has its files: use memory and processor time to a limit, write into one directory, start threads.
//!
//! Landlock takes the file system away, seccomp the network, other processes and the kernel's rarer doors. Both last for the life
//! of the process and hold for the threads that are started afterwards.

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::libc;
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::media::Options;

/// The newest Landlock that is asked for; an older kernel gives what it has, version 1 (Linux 5.13) at least.
const LANDLOCK: ABI = ABI::V6;
/// What of `fcntl` lets the kernel send signals for a process, which no filter of `kill` sees: F_SETOWN, F_SETSIG, F_SETOWN_EX.
const FCNTL_DENIED: [u64; 3] = [8, 10, 15];
/// What of `ioctl` does the same: FIOSETOWN, SIOCSPGRP.
const IOCTL_DENIED: [u64; 2] = [0x8901, 0x8902];
/// Standard streams, the source, and a few files in the making.
const OPEN_FILES_MAX: rlim_t = 64;
/// Between the signal that tells of the limit and the one that cannot be ignored.
const CPU_GRACE_SECONDS: u64 = 10;

/// Calls that a worker has no use for, answered with `EPERM`: network, other programs, other processes, the kernel's configuration.
const DENIED: &[libc::c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_kcmp,
    // What runs as the same user, the server among it, can be slowed down and moved about by these.
    libc::SYS_setpriority,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_ioprio_set,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_memfd_create,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
];

/// The same for calls that only this architecture still has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_kexec_file_load,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// On x86-64 a kernel may have the x32 calls, too: the same numbers with this bit, and some with numbers of their own (sendmsg, recvmsg, execve,
/// ptrace, rt_sigqueueinfo, kexec_load, rt_tgsigqueueinfo, process_vm_readv, process_vm_writev, execveat).
#[cfg(target_arch = "x86_64")]
const X32: Option<(libc::c_long, [libc::c_long; 10])> =
    Some((0x4000_0000, [518, 519, 520, 521, 524, 528, 536, 539, 540, 545]));
#[cfg(not(target_arch = "x86_64"))]
const X32: Option<(libc::c_long, [libc::c_long; 10])> = None;

/// What the kernel lacks for the sandbox, in words for the operator.
///
/// # Errors
/// A sentence that names what is missing.
pub fn sandbox_support() -> Result<(), String> {
    let landlock = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    if let Err(error) = landlock {
        return Err(format!(
            "the kernel has no Landlock (Linux 5.13 or newer with `landlock` among its security \
             modules), which keeps media workers from files: {error}"
        ));
    }
    filters().map_err(|error| format!("seccomp filters cannot be built here: {error}"))?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.contains("Seccomp:") {
        return Err("the kernel has no seccomp, which keeps media workers from the network".into());
    }
    Ok(())
}

/// Sets the limits and closes all doors but the one to `output`, for this thread and those that it starts.
pub(super) fn enter(
    limits: &Options,
    output: Option<&Path>,
    file_bytes_max: u64,
) -> Result<(), String> {
    let limit = |what, resource, soft: u64, hard: u64| {
        setrlimit(resource, soft, hard).map_err(|error| format!("limit on {what}: {error}"))
    };
    limit("core dumps", Resource::RLIMIT_CORE, 0, 0)?;
    limit("open files", Resource::RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX)?;
    limit("file size", Resource::RLIMIT_FSIZE, file_bytes_max, file_bytes_max)?;
    let cpu = limits.cpu_max_seconds;
    let hard = cpu.saturating_add(CPU_GRACE_SECONDS);
    limit("processor time", Resource::RLIMIT_CPU, cpu, hard)?;
    let memory = limits.memory_max_bytes;
    limit("memory", Resource::RLIMIT_AS, memory, memory)?;
    close(output, limits.allow_weak_sandbox)
}

/// Closes the doors of this thread and of those that it starts.
fn close(output: Option<&Path>, allow_weak: bool) -> Result<(), String> {
    nix::sys::prctl::set_no_new_privs().map_err(|error| format!("no_new_privs: {error}"))?;
    for (what, closed) in [("Landlock", landlock(output)), ("seccomp", seccomp())] {
        match closed {
            Ok(()) => {}
            Err(_) if allow_weak => {}
            Err(error) => return Err(format!("{what}: {error}")),
        }
    }
    Ok(())
}

fn landlock(output: Option<&Path>) -> Result<(), String> {
    let text = |error: landlock::RulesetError| error.to_string();
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        // Signals and abstract sockets beyond the sandbox, once more beside seccomp.
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .map_err(text)?;
    if let Some(output) = output {
        // Files are made and given their final names; nothing is read back.
        let make =
            AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::RemoveFile | AccessFs::Truncate;
        let directory = PathFd::new(output).map_err(|error| error.to_string())?;
        rules = rules.add_rule(PathBeneath::new(directory, make)).map_err(text)?;
    }
    let status = rules.restrict_self().map_err(text)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel does not have it".to_owned()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

fn seccomp() -> Result<(), String> {
    for filter in filters()? {
        seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn filters() -> Result<[BpfProgram; 2], String> {
    let text = |error: seccompiler::BackendError| error.to_string();
    let architecture = || std::env::consts::ARCH.try_into().map_err(text);
    let errno = |code: i32| SeccompAction::Errno(code.unsigned_abs());
    let rule = |argument, length, operation, value| {
        SeccompCondition::new(argument, length, operation, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map(|rule| vec![rule])
            .map_err(text)
    };
    // Its flags lie in memory, where no filter sees them. glibc falls back to `clone` where it "does not exist".
    let absent = with_x32(BTreeMap::from([(libc::SYS_clone3, Vec::new())]));
    let absent =
        SeccompFilter::new(absent, SeccompAction::Allow, errno(libc::ENOSYS), architecture()?);
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().chain(DENIED_HERE).map(|call| (*call, Vec::new())).collect();
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let no_thread = rule(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    denied.insert(libc::SYS_clone, no_thread);
    // Signals and limits for itself (an abort, its own threads), never for the server or a sibling, which run as the same user.
    let own = u64::from(std::process::id());
    denied.insert(libc::SYS_tgkill, rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own)?);
    denied.insert(libc::SYS_prlimit64, rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)?);
    for (call, operations) in
        [(libc::SYS_fcntl, &FCNTL_DENIED[..]), (libc::SYS_ioctl, &IOCTL_DENIED)]
    {
        let mut rules = Vec::new();
        for operation in operations {
            rules.extend(rule(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *operation)?);
        }
        denied.insert(call, rules);
    }
    let denied = with_x32(denied);
    let denied =
        SeccompFilter::new(denied, SeccompAction::Allow, errno(libc::EPERM), architecture()?);
    let compile = |filter: Result<SeccompFilter, seccompiler::BackendError>| {
        filter.and_then(BpfProgram::try_from).map_err(text)
    };
    Ok([compile(absent)?, compile(denied)?])
}

/// The same rules for the x32 calls, where the architecture may have them.
fn with_x32(rules: BTreeMap<i64, Vec<SeccompRule>>) -> BTreeMap<i64, Vec<SeccompRule>> {
    let Some((bit, own)) = X32 else { return rules };
    let own = own.map(|call| (call | bit, Vec::new()));
    let same = rules.iter().map(|(call, rules)| (call | bit, rules.clone()));
    same.chain(own).chain(rules.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::process::Command;
    use std::{fs, thread};

    use super::*;

    /// Runs a check behind closed doors, in a thread of its own.
    fn inside(output: Option<&Path>, check: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let run = scope.spawn(|| {
                close(output, false).unwrap();
                check();
            });
            run.join().unwrap();
        });
    }

    #[test]
    fn this_kernel_has_what_the_sandbox_needs() {
        assert_eq!(sandbox_support(), Ok(()));
    }

    #[test]
    fn inside_there_is_no_network_no_program_and_no_other_process() {
        inside(None, || {
            assert!(TcpListener::bind("127.0.0.1:0").is_err());
            assert!(UdpSocket::bind("127.0.0.1:0").is_err());
            assert!(Command::new("/bin/true").status().is_err());
            let init = nix::unistd::Pid::from_raw(1);
            assert!(nix::sys::signal::kill(init, None).is_err());
            assert!(nix::sys::prctl::get_no_new_privs().unwrap());
            // Its own signals and limits stay its own.
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGCONT).unwrap();
            nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        });
    }

    #[test]
    fn inside_no_other_process_can_be_slowed_moved_or_signalled() {
        let server = nix::unistd::getppid().as_raw();
        // Each fails before it looks at anything but its number, so that the pointers may be null.
        let call = |number: libc::c_long, a: i32, b: i32, c: i32| {
            let result = syscall(number, a, b, c);
            (result == -1).then(nix::errno::Errno::last)
        };
        inside(None, || {
            for number in [
                libc::SYS_setpriority,
                libc::SYS_sched_setaffinity,
                libc::SYS_sched_setscheduler,
                libc::SYS_sched_setparam,
                libc::SYS_sched_setattr,
                libc::SYS_ioprio_set,
                libc::SYS_migrate_pages,
                libc::SYS_move_pages,
            ] {
                let denied = call(number, 0, server, 0);
                assert_eq!(denied, Some(nix::errno::Errno::EPERM), "{number}");
            }
            for operation in FCNTL_DENIED {
                let operation = i32::try_from(operation).unwrap();
                let denied = call(libc::SYS_fcntl, 0, operation, server);
                assert_eq!(denied, Some(nix::errno::Errno::EPERM), "fcntl {operation}");
            }
            for operation in IOCTL_DENIED {
                let operation = i32::try_from(operation).unwrap();
                let denied = call(libc::SYS_ioctl, 0, operation, 0);
                assert_eq!(denied, Some(nix::errno::Errno::EPERM), "ioctl {operation}");
            }
            let flags = call(libc::SYS_fcntl, 0, libc::F_GETFD, 0);
            assert_eq!(flags, None, "what else fcntl does stays");
        });
    }

    /// A call without a wrapper that would reach the kernel by another number.
    #[expect(unsafe_code, reason = "a filter on numbers is shown by numbers")]
    fn syscall(number: libc::c_long, a: i32, b: i32, c: i32) -> libc::c_long {
        // SAFETY: the filter refuses the call before the kernel reads an argument, or it is F_GETFD, which has no pointer.
        unsafe { libc::syscall(number, a, b, c) }
    }

    #[test]
    fn inside_only_the_output_directory_takes_files_and_nothing_can_be_read() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(theirs.path().join("wallet"), "secret").unwrap();
        let held = fs::File::open(theirs.path().join("wallet")).unwrap();
        inside(Some(ours.path()), || {
            fs::write(ours.path().join("a.part"), "made").unwrap();
            fs::rename(ours.path().join("a.part"), ours.path().join("a")).unwrap();
            assert!(fs::read(theirs.path().join("wallet")).is_err());
            assert!(fs::write(theirs.path().join("b"), "").is_err());
            assert!(fs::remove_file(theirs.path().join("wallet")).is_err());
            assert!(fs::rename(ours.path().join("a"), theirs.path().join("a")).is_err());
            assert!(std::os::unix::fs::symlink("/etc", ours.path().join("s")).is_err());
            assert!(fs::read("/etc/passwd").is_err() && fs::read_dir("/proc/self").is_err());
            // What was opened before stays open: that is how a worker reads its source.
            assert_eq!(std::io::read_to_string(&held).unwrap(), "secret");
        });
        assert_eq!(fs::read_to_string(ours.path().join("a")).unwrap(), "made");
    }

    #[test]
    fn inside_threads_can_be_started_and_are_inside_too() {
        inside(None, || {
            let denied = thread::spawn(|| TcpListener::bind("127.0.0.1:0").is_err());
            assert!(denied.join().unwrap());
        });
    }
}
