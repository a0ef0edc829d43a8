//! Persistent engine threads that sleep between batches.
//!
//! A job is called once on each thread, the caller's included, with the thread's index. A panic in it is
//! caught and reported to the caller; the threads live on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
#[cfg(target_os = "linux")]
use std::time::Duration;

/// `num_threads - 1` threads and the caller.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    start: Condvar,
    done: Condvar,
}

#[derive(Debug)]
struct State {
    /// Counts jobs, so that a thread runs each one once.
    epoch: u64,
    job: Option<Job>,
    running: usize,
    panic: Option<String>,
    stop: bool,
}

/// A borrowed closure whose lifetime is kept by [`Pool::run`], which returns after all threads left it.
#[derive(Debug, Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure is `Sync`, and `Pool::run` keeps it alive while any thread has the pointer.
unsafe impl Send for Job {}

impl Pool {
    /// # Errors
    /// The system gives no more threads.
    pub fn new(num_threads: usize) -> std::io::Result<Self> {
        let state = State { epoch: 0, job: None, running: 0, panic: None, stop: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            start: Condvar::new(),
            done: Condvar::new(),
        });
        let mut pool = Self { shared, threads: Vec::new() };
        for index in 1..num_threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("engine-{index}"));
            pool.threads.push(thread.spawn(move || shared.work(index))?);
        }
        Ok(pool)
    }

    pub fn num_threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `job` on every thread and waits for all of them.
    ///
    /// # Errors
    /// The message of a panic in the job.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) -> Result<(), String> {
        // SAFETY: only the lifetime changes. The pointer is dropped from `state` before this function
        // returns, and no thread calls it after `running` fell to zero; nothing in between can unwind.
        let erased = Job(unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(job)
        });
        {
            let mut state = self.shared.lock();
            state.epoch += 1;
            state.job = Some(erased);
            state.running = self.threads.len();
            state.panic = None;
        }
        self.shared.start.notify_all();
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));

        let mut state = self.shared.lock();
        while state.running > 0 {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.job = None;
        let panic = state.panic.take().or(own.err().map(|panic| message(&*panic)));
        panic.map_or(Ok(()), Err)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.start.notify_all();
        for thread in self.threads.drain(..) {
            // A job's panic was caught inside the thread, so there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    /// No code that can panic runs under the lock, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            let job = {
                let mut state = self.lock();
                while state.epoch == seen && !state.stop {
                    state = self.start.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stop {
                    return;
                }
                seen = state.epoch;
                state.job
            };
            let Some(Job(job)) = job else { continue };
            // SAFETY: `Pool::run` waits until this thread has counted itself out below.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(index) }));
            let mut state = self.lock();
            if let Err(panic) = result {
                state.panic = Some(message(&*panic));
            }
            state.running -= 1;
            if state.running == 0 {
                self.done.notify_one();
            }
        }
    }
}

/// How much nicer computing threads are than the process: a thread that wakes to receive or answer a request need not
/// wait out a time slice of theirs, and what else the machine runs leaves them a tenth of a core that both want.
#[cfg(target_os = "linux")]
const NICE: libc::c_int = 10;

/// The longest time slice that Linux grants. Since Linux 6.12 a thread with a shorter one, which by default is a few
/// milliseconds, need not wait until this one's is over.
#[cfg(target_os = "linux")]
const SLICE: Duration = Duration::from_millis(100);

/// Lets the process's other threads run before this one. Only Linux has priorities of threads.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: of memory these calls read `attributes` alone. Of the process's priority that of its first thread is read,
    // and 0 is the calling thread. A priority can always be lowered; where no slice may be set, it stays as it is.
    unsafe {
        let process = libc::getpriority(libc::PRIO_PROCESS, libc::getpid().cast_unsigned());
        libc::setpriority(libc::PRIO_PROCESS, 0, process + NICE);
        let attributes = libc::sched_attr {
            size: size_of::<libc::sched_attr>() as u32,
            sched_policy: 0,
            sched_flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
            sched_nice: libc::getpriority(libc::PRIO_PROCESS, 0),
            sched_priority: 0,
            sched_runtime: SLICE.as_nanos() as u64,
            sched_deadline: 0,
            sched_period: 0,
        };
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_job_runs_once_on_each_thread() {
        let mut pool = Pool::new(4).unwrap();
        for _ in 0..100 {
            let calls = [const { AtomicUsize::new(0) }; 4];
            pool.run(&|index| _ = calls[index].fetch_add(1, Ordering::Relaxed)).unwrap();
            assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_gives_way_alone_is_nicer_and_not_ever_more() {
        // SAFETY: touches no memory.
        let niceness = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = niceness();
        let lowered = std::thread::spawn(move || {
            give_way();
            give_way();
            niceness()
        });
        assert_eq!(lowered.join().unwrap(), (before + NICE).min(19));
        assert_eq!(niceness(), before);
    }

    #[test]
    fn a_panic_is_reported_and_the_pool_lives_on() {
        let mut pool = Pool::new(3).unwrap();
        for index in 0..3 {
            let result = pool.run(&|i| assert!(i != index, "thread {i} fails"));
            assert_eq!(result, Err(format!("thread {index} fails")));
            assert_eq!(pool.run(&|_| ()), Ok(()));
        }
    }
}
