//! Streams as queues: what may run next, and what has to be done before somebody may go on.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::c_void;
use std::sync::Arc;

use super::capture::Replay;
use super::errors::Status;
use super::product::Product;
use crate::fault::Dim3;
use crate::memory::address::DevicePtr;
use crate::program::Kernel;
use crate::random::Random;

/// Id of the stream every program has: handle 0.
pub const DEFAULT_STREAM: usize = 0;

/// More waiting commands than any test queues on purpose; past it, work runs without being awaited.
pub const MAX_PENDING: usize = 1 << 14;

/// A host address. It crosses threads only inside the driver's lock.
#[derive(Debug, Clone, Copy)]
pub struct HostPtr(pub *mut u8);

// SAFETY: the pointer is only used under the driver's lock, and the program promised with the copy
// that the memory stays valid until it has waited for the stream.
unsafe impl Send for HostPtr {}
// SAFETY: as above; sharing the address shares nothing behind it.
unsafe impl Sync for HostPtr {}

#[derive(Debug, Clone)]
pub enum Command {
    Launch {
        kernel: Arc<KernelRef>,
        grid: Dim3,
        block: Dim3,
        shared: u32,
        params: Vec<u8>,
    },
    /// Of the emulated cuBLASLt.
    Product(Arc<Product>),
    CopyIn {
        dst: DevicePtr,
        data: Vec<u8>,
    },
    /// From pinned memory: read when it runs, as a card would.
    CopyInPinned {
        dst: DevicePtr,
        src: HostPtr,
        bytes: usize,
    },
    CopyOut {
        dst: HostPtr,
        src: DevicePtr,
        bytes: usize,
    },
    Copy {
        dst: DevicePtr,
        src: DevicePtr,
        bytes: u64,
    },
    Fill {
        dst: DevicePtr,
        element: Vec<u8>,
        count: u64,
    },
    Free {
        ptr: DevicePtr,
    },
    /// The ticket is the command's own; the event remembers when it ran.
    Record {
        event: usize,
    },
    Wait {
        ticket: u64,
    },
    /// A function of the program's, called with the address.
    Host {
        function: unsafe extern "C" fn(*mut c_void),
        data: HostPtr,
    },
    /// Runs node by node, so that other streams' work falls in between.
    Graph(Replay),
    /// Never runs: the launch that hangs, and all behind it.
    Hang,
    /// Ends the context.
    Fault(Status),
}

/// A kernel and the module that keeps it alive.
#[derive(Debug)]
pub struct KernelRef {
    pub module: Arc<crate::machine::Module>,
    pub name: String,
}

impl KernelRef {
    pub fn kernel(&self) -> Option<&Kernel> {
        self.module.kernel(&self.name).ok()
    }
}

#[derive(Debug, Default)]
struct Stream {
    commands: VecDeque<(u64, Command)>,
    /// Not created with NON_BLOCKING: ordered with the default stream.
    blocking: bool,
    /// Destroyed: forgotten when its work is done.
    closed: bool,
}

#[derive(Debug, Default)]
pub struct Queues {
    streams: BTreeMap<usize, Stream>,
    /// Records that have not run: an event is done when its ticket is not here.
    pending_records: HashSet<u64>,
    next_ticket: u64,
    num_pending: usize,
}

impl Queues {
    pub fn open(&mut self, stream: usize, blocking: bool) {
        self.streams.insert(stream, Stream { blocking, ..Stream::default() });
    }

    /// Takes no more work; what is queued still runs.
    pub fn close(&mut self, stream: usize) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.closed = true;
        }
        self.forget_closed();
    }

    fn forget_closed(&mut self) {
        self.streams.retain(|_, stream| !stream.closed || !stream.commands.is_empty());
    }

    pub fn is_open(&self, stream: usize) -> bool {
        self.streams.get(&stream).is_some_and(|stream| !stream.closed)
    }

    pub fn num_pending(&self) -> usize {
        self.num_pending
    }

    /// Appends to an open stream and answers the command's ticket.
    pub fn push(&mut self, stream: usize, command: Command) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        if matches!(command, Command::Record { .. }) {
            self.pending_records.insert(ticket);
        }
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.commands.push_back((ticket, command));
            self.num_pending += 1;
        }
        ticket
    }

    pub fn is_recorded(&self, ticket: u64) -> bool {
        !self.pending_records.contains(&ticket)
    }

    pub fn is_idle(&self, stream: usize) -> bool {
        self.streams.get(&stream).is_none_or(|stream| stream.commands.is_empty())
    }

    /// Whether the command of that ticket has left its stream.
    pub fn is_past(&self, stream: usize, ticket: u64) -> bool {
        self.head(stream).is_none_or(|head| head > ticket)
    }

    fn head(&self, stream: usize) -> Option<u64> {
        Some(self.streams.get(&stream)?.commands.front()?.0)
    }

    fn may_run(&self, id: usize, stream: &Stream) -> bool {
        let Some((ticket, command)) = stream.commands.front() else { return false };
        match command {
            Command::Wait { ticket } if !self.is_recorded(*ticket) => return false,
            Command::Hang => return false,
            _ => {}
        }
        // The default stream and the blocking ones run in the order of their calls.
        if id == DEFAULT_STREAM {
            let earlier = |other: &Stream| {
                other.blocking && other.commands.front().is_some_and(|head| head.0 < *ticket)
            };
            !self.streams.iter().any(|(&other_id, other)| other_id != id && earlier(other))
        } else {
            !stream.blocking || self.head(DEFAULT_STREAM).is_none_or(|head| head > *ticket)
        }
    }

    /// Takes a command that may run now, from a stream drawn at random.
    pub fn take(&mut self, random: &mut Random) -> Option<Command> {
        let ready: Vec<usize> = self
            .streams
            .iter()
            .filter(|(id, stream)| self.may_run(**id, stream))
            .map(|(id, _)| *id)
            .collect();
        let count = ready.len() as u64;
        let chosen = ready.get(random.below(count.max(1)) as usize)?;
        let stream = self.streams.get_mut(chosen)?;
        if let (_, Command::Graph(replay)) = stream.commands.front_mut()? {
            let ready = replay.ready();
            if let Some(&node) = ready.get(random.below(ready.len().max(1) as u64) as usize) {
                let command = replay.take(node);
                if replay.is_done() {
                    self.pop(*chosen);
                }
                return Some(command);
            }
        }
        self.pop(*chosen)
    }

    fn pop(&mut self, stream: usize) -> Option<Command> {
        let (ticket, command) = self.streams.get_mut(&stream)?.commands.pop_front()?;
        self.num_pending -= 1;
        self.pending_records.remove(&ticket);
        self.forget_closed();
        Some(command)
    }

    /// Drops all work, as a card does after a fault.
    pub fn clear(&mut self) {
        self.streams.values_mut().for_each(|stream| stream.commands.clear());
        self.pending_records.clear();
        self.num_pending = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> Command {
        Command::Free { ptr: DevicePtr(number) }
    }

    fn drain(queues: &mut Queues, seed: u64) -> Vec<u64> {
        let mut random = Random::new(seed);
        let mut order = Vec::new();
        while let Some(command) = queues.take(&mut random) {
            if let Command::Free { ptr } = command {
                order.push(ptr.0);
            }
        }
        order
    }

    #[test]
    fn streams_without_an_event_run_in_every_order_and_with_one_in_theirs() {
        let mut orders = HashSet::new();
        for seed in 0..32 {
            for ordered in [false, true] {
                let mut queues = Queues::default();
                queues.open(DEFAULT_STREAM, false);
                queues.open(1, false);
                queues.open(2, false);
                queues.push(1, mark(1));
                let ticket = queues.push(1, Command::Record { event: 0 });
                if ordered {
                    queues.push(2, Command::Wait { ticket });
                }
                queues.push(2, mark(2));
                let order = drain(&mut queues, seed);
                assert_eq!(order.len(), 2);
                if ordered {
                    assert_eq!(order, [1, 2]);
                } else {
                    orders.insert(order);
                }
            }
        }
        assert_eq!(orders.len(), 2, "both orders are met");
    }

    #[test]
    fn blocking_streams_keep_the_order_of_the_default_stream() {
        for seed in 0..32 {
            let mut queues = Queues::default();
            queues.open(DEFAULT_STREAM, false);
            queues.open(1, true);
            queues.push(1, mark(1));
            queues.push(DEFAULT_STREAM, mark(2));
            queues.push(1, mark(3));
            assert_eq!(drain(&mut queues, seed), [1, 2, 3]);
        }
    }
}
