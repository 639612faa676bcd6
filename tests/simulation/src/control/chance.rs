//! What is random, or of the wall clock, in the standard library, tokio and the agents, decided by
//! the schedule: the order of hash maps, the branch that `select!` looks at first, ids, and times
//! since the epoch. So a seed replays exactly.
//!
//! These stand in for the C library's functions of the same names, in this test's executable only.
//! Each schedule has a thread of its own; others get what the system says.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};

use fastrand::Rng;

/// When every schedule begins, in seconds since the epoch.
const BEGINNING: i64 = 1_800_000_000;

thread_local! {
    static CHANCE: RefCell<Option<Rng>> = const { RefCell::new(None) };
    /// When the schedule began, by the clock that does not jump.
    static BEGAN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
}

/// From now on this thread's chance follows from the seed.
pub fn seed(seed: u64) {
    CHANCE.with(|chance| *chance.borrow_mut() = Some(Rng::with_seed(seed)));
}

/// The wall clock goes with tokio's from now on.
pub fn begin_clock() {
    BEGAN.with(|began| began.set(Some(tokio::time::Instant::now())));
}

/// # Safety
/// As `getrandom(2)`: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let filled = CHANCE.try_with(|chance| {
        let mut chance = chance.try_borrow_mut().ok()?;
        // SAFETY: the caller vouches for the room.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
        chance.as_mut()?.fill(bytes);
        Some(())
    });
    match filled {
        Ok(Some(())) => isize::try_from(length).unwrap_or(isize::MAX),
        // SAFETY: the arguments are passed on as they came.
        _ => unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize },
    }
}

/// # Safety
/// As `clock_gettime(2)`: `time` points to a place for the answer.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> i32 {
    let began = match clock {
        libc::CLOCK_REALTIME => BEGAN.try_with(Cell::get).ok().flatten(),
        _ => None,
    };
    let Some(began) = began else {
        // SAFETY: the arguments are passed on as they came.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as i32 };
    };
    let passed = began.elapsed();
    // SAFETY: the caller vouches for the place.
    unsafe {
        (*time).tv_sec = BEGINNING + i64::try_from(passed.as_secs()).unwrap_or_default();
        (*time).tv_nsec = i64::from(passed.subsec_nanos());
    }
    0
}
