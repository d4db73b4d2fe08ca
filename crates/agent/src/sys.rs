//! System calls that no dependency wraps safely: the one module that may say `unsafe`, and it stays small.
//! It holds no policy, only questions to the kernel.
#![allow(unsafe_code, reason = "system calls without a safe wrapper")]

/// Whether the kernel holds its clock to be synchronised: `adjtimex` without `STA_UNSYNC`. A time daemon
/// (chrony, systemd-timesyncd, ntpd) clears that bit; at boot, and after 16,000 s of free running, it is set.
#[cfg(target_os = "linux")]
pub(crate) fn clock_synchronised() -> bool {
    // SAFETY: `timex` is plain integers, for which all zeroes is a valid value; modes = 0 asks to change nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed `timex`, which the call only fills in.
    let result = unsafe { libc::adjtimex(&mut state) };
    result >= 0 && state.status & libc::STA_UNSYNC == 0
}

/// Elsewhere the question has no portable form, and "no" is the answer that only costs the agent a memory
/// of the time across restarts and the check of `notBefore`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn clock_synchronised() -> bool {
    false
}

/// Makes a copy of this process: `None` in the copy, its id here. `cgroup` is the folder of the group of cgroup v2 in
/// which the copy begins; entering one later costs the whole machine a halt of milliseconds.
///
/// For the keeper of a job only, which has one thread: no lock can be held by a thread that the copy has not, so that it
/// may do whatever a program may, allocate too, until it becomes another by exec.
///
/// # Errors
/// When there is no room for it, or the kernel (before Linux 5.7) knows no such beginning.
pub(crate) fn fork(
    cgroup: Option<std::os::fd::BorrowedFd<'_>>,
) -> std::io::Result<Option<rustix::process::Pid>> {
    let pid = match cgroup {
        // SAFETY: the process has one thread, so its memory is in no state that another thread has left half done.
        None => unsafe { libc::fork() },
        Some(cgroup) => fork_into(cgroup),
    };
    match pid {
        ..0 => Err(std::io::Error::last_os_error()),
        pid => Ok(rustix::process::Pid::from_raw(pid)),
    }
}

#[cfg(target_os = "linux")]
fn fork_into(cgroup: std::os::fd::BorrowedFd<'_>) -> libc::pid_t {
    use std::os::fd::AsRawFd as _;
    /// `CLONE_INTO_CGROUP` of linux/sched.h.
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    // `struct clone_args`: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup. Without a stack the copy goes on with its own copy of this one, as after fork.
    let mut arguments = [0_u64; 11];
    arguments[0] = INTO_CGROUP;
    arguments[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    arguments[10] = u64::from(cgroup.as_raw_fd().cast_unsigned());
    // SAFETY: the pointer is to as many bytes as it says, which the call only reads; nothing is shared with the copy;
    // for the rest as in `fork`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    libc::pid_t::try_from(pid).unwrap_or(-1)
}

#[cfg(not(target_os = "linux"))]
fn fork_into(_: std::os::fd::BorrowedFd<'_>) -> libc::pid_t {
    // There are no groups to begin in.
    // SAFETY: as in `fork`.
    unsafe { libc::fork() }
}

/// Ends this process at once: nothing is flushed or dropped. For a copy that could not become what it should.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: takes a number.
    unsafe { libc::_exit(code) }
}

/// The process that the command becomes is killed when the thread that starts it ends. Elsewhere than on Linux it is not.
pub(crate) fn end_with_parent(command: &mut std::process::Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;
        let ask = || {
            // SAFETY: takes numbers.
            let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec only a system call is made; nothing is allocated and no lock is taken.
        unsafe { command.pre_exec(ask) };
    }
    #[cfg(not(target_os = "linux"))]
    let _: &mut std::process::Command = command;
}

/// Every signal does again what it does by default, and none is blocked: both survive exec, and what the agent ignores
/// is not for a program of somebody else to ignore.
pub(crate) fn forget_signals() -> std::io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: no handler is installed. SIGKILL, SIGSTOP and numbers that are none are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a zeroed set is storage for one, which sigemptyset fills in.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to a live set, or null where that is allowed.
    let result = unsafe {
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Becomes another user, for good: groups first, since afterwards that may not be changed any more.
pub(crate) fn become_user(user: u32, group: u32, groups: &[u32]) -> std::io::Result<()> {
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    #[allow(clippy::useless_conversion, reason = "the type of the count differs between systems")]
    let count = groups.len().try_into().map_err(std::io::Error::other)?;
    // SAFETY: the pointer is to as many ids as it says.
    done(unsafe { libc::setgroups(count, groups.as_ptr()) })?;
    // SAFETY: takes a number.
    done(unsafe { libc::setgid(group) })?;
    // SAFETY: takes a number.
    done(unsafe { libc::setuid(user) })?;
    #[cfg(target_os = "linux")]
    // SAFETY: takes numbers. Where the kernel knows no ambient capabilities there are none to drop.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    };
    Ok(())
}

/// Closes every descriptor from 3 on. For the beginning of a program: nothing may own one of them yet.
pub(crate) fn close_inherited() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: takes numbers; as the caller promises, nobody uses what is closed.
        if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } == 0 {
            return;
        }
    }
    // Before Linux 5.9, and elsewhere.
    // SAFETY: takes a number.
    let most = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) };
    for descriptor in 3..libc::c_int::try_from(most).unwrap_or(libc::c_int::MAX).min(1 << 16) {
        // SAFETY: as the caller promises, nobody uses what is closed.
        unsafe { libc::close(descriptor) };
    }
}

/// The signals that a keeper waits for: that a child has ended, and that it is itself to end. They are blocked, and
/// asked for.
#[derive(Debug)]
pub(crate) struct Signals {
    #[cfg(target_os = "linux")]
    descriptor: std::os::fd::OwnedFd,
}

impl Signals {
    const TO_END: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

    /// Blocks them from now on.
    pub(crate) fn block() -> std::io::Result<Self> {
        // SAFETY: a zeroed set is storage for one, which sigemptyset fills in.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live set.
        unsafe { libc::sigemptyset(&mut set) };
        for signal in Self::TO_END.into_iter().chain([libc::SIGCHLD]) {
            // SAFETY: the pointer is to a live set.
            unsafe { libc::sigaddset(&mut set, signal) };
        }
        // SAFETY: the pointer is to a live set, and null is allowed for the old one.
        if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::FromRawFd as _;
            // SAFETY: the pointer is to a live set.
            let descriptor = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
            if descriptor < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // SAFETY: it was just opened, for nobody else.
            Ok(Self { descriptor: unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor) } })
        }
        #[cfg(not(target_os = "linux"))]
        Ok(Self {})
    }

    /// What becomes readable with a signal. `None` where the system has no such thing: then ask every now and then.
    pub(crate) fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        #[cfg(target_os = "linux")]
        return Some(std::os::fd::AsFd::as_fd(&self.descriptor));
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Takes what has come; whether this process is to end.
    #[cfg(target_os = "linux")]
    pub(crate) fn take(&self) -> bool {
        use std::os::fd::AsRawFd as _;
        let mut to_end = false;
        loop {
            // SAFETY: plain integers, for which all zeroes is a valid value.
            let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
            let size = size_of::<libc::signalfd_siginfo>();
            // SAFETY: the pointer is to so many bytes, exclusively borrowed.
            let read = unsafe { libc::read(self.descriptor.as_raw_fd(), (&raw mut info).cast(), size) };
            if read != size.cast_signed() {
                return to_end;
            }
            to_end |= Self::TO_END.iter().any(|signal| signal.cast_unsigned() == info.ssi_signo);
        }
    }

    /// Whether this process is to end.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn take(&self) -> bool {
        // SAFETY: a zeroed set is storage for one, which sigpending fills in.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live set.
        unsafe { libc::sigpending(&mut set) };
        // SAFETY: the pointer is to a live set.
        Self::TO_END.iter().any(|signal| unsafe { libc::sigismember(&set, *signal) } == 1)
    }
}

/// Has large pieces of memory go back to the system when they are freed, and all threads share one heap: the agent is
/// small most of the time, and once it was not, glibc would keep megabytes for the next time. For the beginning of the
/// process, before there are other threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn give_memory_back() {
    // Set by hand, it no longer grows with the largest piece freed so far.
    const LARGE: libc::c_int = 128 << 10;
    // SAFETY: both take numbers; a number that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Elsewhere it is left to the system.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_memory_back() {}

/// Lets go of this program's code. The kernel maps what lies around each page that is used, so that after the start, which uses
/// most of it once, nearly all of it counts as this process's memory and is kept longest of all; from now on only what is
/// used again does. How many bytes were mapped at most; none where they cannot be found.
#[cfg(target_os = "linux")]
pub(crate) fn let_go_of_code() -> Option<usize> {
    let here = let_go_of_code as fn() -> Option<usize> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let (from, to) = maps.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (from, to) = words.next()?.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        (words.next() == Some("r-xp") && (from..to).contains(&here)).then_some((from, to))
    })?;
    // SAFETY: nothing writes to a mapping that cannot be written to, and relocations are not in code: what is read there again
    // comes from the file, as it was.
    let result = unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
    (result == 0).then_some(to - from)
}

/// Elsewhere it is left to the system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn let_go_of_code() -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    /// Of this program's code, as far as it is mapped from its file.
    fn mapped() -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let here = mapped as fn() -> usize as usize;
        let mut inside = false;
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some((from, to)) = words[0].split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).expect("an address");
                inside = (number(from)..number(to)).contains(&here);
            } else if inside && words[0] == "Rss:" {
                return words[1].parse::<usize>().expect("a number") * 1024;
            }
        }
        panic!("{maps}");
    }

    #[test]
    fn code_that_was_let_go_of_comes_back() {
        // Other tests map more of it at the same time.
        let less = || {
            let before = mapped();
            let size = super::let_go_of_code().expect("the code is found");
            assert!(before <= size, "{before} of {size}");
            mapped() < before
        };
        assert!((0..10).any(|_| less()), "it is all mapped still");
    }
}
