//! Stream capture: work of one or several streams becomes a graph instead of running.
//!
//! A capture begins in one stream and spreads by events: a stream that waits for an event recorded
//! inside joins it, and the origin has to wait for what every other stream did before the end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Handle;
use super::errors::Status;
use super::queue::Command;

/// Nodes by index, each after those it depends on.
#[derive(Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub command: Command,
    pub after: Vec<usize>,
}

/// A point inside a capture: what an event recorded there stands for.
#[derive(Debug, Clone)]
pub struct Mark {
    capture: u64,
    after: BTreeSet<usize>,
}

#[derive(Debug)]
struct Capture {
    origin: Handle,
    nodes: Vec<Node>,
    /// A call that a capture cannot hold: the end fails.
    invalid: bool,
}

/// All captures of a device.
#[derive(Debug, Default)]
pub struct Captures {
    open: HashMap<u64, Capture>,
    /// Where each capturing stream is in its capture.
    streams: HashMap<Handle, Mark>,
    next_id: u64,
}

impl Captures {
    pub fn is_capturing(&self, stream: Handle) -> bool {
        self.streams.contains_key(&stream)
    }

    pub fn any(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a call inside broke the stream's capture.
    pub fn is_invalid(&self, stream: Handle) -> bool {
        let capture = self.streams.get(&stream).and_then(|mark| self.open.get(&mark.capture));
        capture.is_some_and(|capture| capture.invalid)
    }

    pub fn begin(&mut self, stream: Handle) -> Result<(), Status> {
        if self.is_capturing(stream) {
            return Err(Status::CaptureUnsupported);
        }
        self.next_id += 1;
        let capture = Capture { origin: stream, nodes: Vec::new(), invalid: false };
        self.open.insert(self.next_id, capture);
        self.streams.insert(stream, Mark { capture: self.next_id, after: BTreeSet::new() });
        Ok(())
    }

    /// Adds `command` behind what the capturing `stream` did last.
    pub fn push(&mut self, stream: Handle, command: Command) -> Result<(), Status> {
        let mark = self.streams.get_mut(&stream).ok_or(Status::CaptureUnmatched)?;
        let capture = self.open.get_mut(&mark.capture).ok_or(Status::CaptureInvalidated)?;
        if capture.invalid {
            return Err(Status::CaptureInvalidated);
        }
        let after = std::mem::replace(&mut mark.after, BTreeSet::from([capture.nodes.len()]));
        capture.nodes.push(Node { command, after: after.into_iter().collect() });
        Ok(())
    }

    /// Where `stream` is now, for an event.
    pub fn mark(&self, stream: Handle) -> Option<Mark> {
        self.streams.get(&stream).cloned()
    }

    /// A stream waits for an event recorded inside a capture, and so joins it.
    pub fn join(&mut self, stream: Handle, event: &Mark) -> Result<(), Status> {
        if !self.open.contains_key(&event.capture) {
            return Err(Status::CaptureInvalidated);
        }
        match self.streams.get_mut(&stream) {
            Some(mark) if mark.capture != event.capture => Err(Status::CaptureMerge),
            Some(mark) => {
                mark.after.extend(&event.after);
                Ok(())
            }
            None => {
                self.streams.insert(stream, event.clone());
                Ok(())
            }
        }
    }

    /// A call that a capture cannot hold: the capture of `stream` is lost.
    pub fn invalidate(&mut self, stream: Handle, status: Status) -> Status {
        let capture = self.streams.get(&stream).map_or(0, |mark| mark.capture);
        if let Some(capture) = self.open.get_mut(&capture) {
            capture.invalid = true;
        }
        status
    }

    pub fn end(&mut self, stream: Handle) -> Result<Arc<Graph>, Status> {
        let mark = self.streams.get(&stream).ok_or(Status::CaptureUnmatched)?;
        let id = mark.capture;
        if self.open.get(&id).is_some_and(|capture| capture.origin != stream) {
            return Err(Status::CaptureUnmatched);
        }
        let last = mark.after.clone();
        self.streams.retain(|_, mark| mark.capture != id);
        let capture = self.open.remove(&id).ok_or(Status::CaptureUnmatched)?;
        if capture.invalid {
            return Err(Status::CaptureInvalidated);
        }
        // A node that nothing follows belongs to a stream the origin never waited for.
        let followed: BTreeSet<usize> =
            capture.nodes.iter().flat_map(|node| node.after.iter().copied()).collect();
        if (0..capture.nodes.len()).any(|node| !followed.contains(&node) && !last.contains(&node)) {
            return Err(Status::CaptureUnjoined);
        }
        Ok(Arc::new(Graph { nodes: capture.nodes }))
    }
}

/// A launched graph: what of it has run.
#[derive(Debug, Clone)]
pub struct Replay {
    graph: Arc<Graph>,
    done: Vec<bool>,
}

impl Replay {
    pub fn new(graph: Arc<Graph>) -> Replay {
        let done = vec![false; graph.nodes.len()];
        Replay { graph, done }
    }

    /// Nodes whose dependencies have run.
    pub fn ready(&self) -> Vec<usize> {
        let ready = |(index, node): (usize, &Node)| {
            (!self.done[index] && node.after.iter().all(|&before| self.done[before]))
                .then_some(index)
        };
        self.graph.nodes.iter().enumerate().filter_map(ready).collect()
    }

    /// Takes a ready node to run it.
    pub fn take(&mut self, node: usize) -> Command {
        self.done[node] = true;
        self.graph.nodes[node].command.clone()
    }

    pub fn is_done(&self) -> bool {
        self.done.iter().all(|&done| done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::address::DevicePtr;

    fn mark(number: u64) -> Command {
        Command::Free { ptr: DevicePtr(number) }
    }

    /// Origin 1 forks stream 2 behind its first node.
    fn forked() -> Captures {
        let mut captures = Captures::default();
        captures.begin(1).unwrap();
        captures.push(1, mark(0)).unwrap();
        let fork = captures.mark(1).unwrap();
        captures.join(2, &fork).unwrap();
        captures.push(2, mark(1)).unwrap();
        captures.push(1, mark(2)).unwrap();
        captures
    }

    #[test]
    fn a_forked_stream_depends_on_its_fork_and_its_join_on_both() {
        let mut captures = forked();
        let join = captures.mark(2).unwrap();
        captures.join(1, &join).unwrap();
        captures.push(1, mark(3)).unwrap();
        let graph = captures.end(1).unwrap();
        let after: Vec<&[usize]> = graph.nodes.iter().map(|node| node.after.as_slice()).collect();
        assert_eq!(after, [&[] as &[usize], &[0], &[0], &[1, 2]]);
        assert!(!captures.is_capturing(2) && !captures.any());

        let mut replay = Replay::new(graph);
        assert_eq!(replay.ready(), [0]);
        replay.take(0);
        assert_eq!(replay.ready(), [1, 2], "either stream may go first");
        replay.take(2);
        replay.take(1);
        assert_eq!(replay.ready(), [3]);
    }

    #[test]
    fn work_that_the_origin_never_waited_for_spoils_the_capture() {
        assert!(matches!(forked().end(1), Err(Status::CaptureUnjoined)));
        assert!(matches!(forked().end(2), Err(Status::CaptureUnmatched)));
    }

    #[test]
    fn captures_neither_merge_nor_outlive_a_call_they_cannot_hold() {
        let mut captures = forked();
        captures.begin(3).unwrap();
        let foreign = captures.mark(1).unwrap();
        assert_eq!(captures.join(3, &foreign), Err(Status::CaptureMerge));
        captures.invalidate(3, Status::CaptureIsolation);
        assert_eq!(captures.push(3, mark(9)), Err(Status::CaptureInvalidated));
        assert!(matches!(captures.end(3), Err(Status::CaptureInvalidated)));
    }
}
