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
