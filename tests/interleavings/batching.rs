//! Queue, batches and answers, between clients, the batcher and a device.

use std::time::{Duration, Instant};

use interleavings::batch::{
    Answer, Batch, Batcher, Class, Entry, Limits, Rate, Rows, Sequences, Share, Step, TenantId,
    execute,
};
use interleavings::clock;
use interleavings::engine::packed::Packed;
use interleavings::error::{DeviceError, Error};
use interleavings::model::Scorer;
use interleavings::sync::Arc;
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::thread;
use tokio::sync::oneshot;

use crate::under_all_schedules;

type Waiting = oneshot::Receiver<Result<Rows, Error>>;

/// The token of whoever left before it came to the queue.
const GONE: u32 = 99;
const PATIENT_CLIENTS: u32 = 3;

enum Command {
    Submit(Entry),
    Done(usize),
    Stop,
}

/// Gives every sequence its first token as its score, and fails now and then.
struct Device;

impl Scorer for Device {
    fn width(&self) -> usize {
        1
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        assert!(!batch.input_ids.contains(&GONE), "a cancelled request is on the device");
        if thread_rng().gen_ratio(1, 8) {
            return Err(DeviceError::new("on purpose"));
        }
        for (i, score) in out.iter_mut().enumerate() {
            *score = batch.input_ids[batch.cu_seqlens[i] as usize] as f32;
        }
        Ok(())
    }
}

/// Two sequences that begin with `token`.
fn request(token: u32, now: Instant) -> (Entry, Waiting) {
    let mut sequences = Sequences::default();
    sequences.push(&[&[token, 1, 2]], 1);
    sequences.push(&[&[token, 1]], 1);
    let (answer, waiting) = Answer::new(sequences.len(), 1);
    let share = Share { tenant: TenantId(token % 2), weight: 1, class: Class::Normal };
    let (sequences, answer) = (Arc::new(sequences), Arc::new(answer));
    (Entry { share, priority: 0, sequences, answer, arrived: now, deadline: None }, waiting)
}

/// The batcher's thread; the time passes only where it waits for it.
fn drive(inbox: &Receiver<Command>, device: &Sender<Batch>, mut now: Instant) {
    // Room for two of the sequences, so that requests are split.
    let limits = Limits {
        max_batch_tokens: 6,
        max_batch_sequences: 3,
        max_queue_delay: Duration::from_micros(500),
    };
    let mut batcher = Batcher::new(limits, Rate::new(1000.0), 1);
    let mut is_stopping = false;
    // A request that is forgotten keeps this waiting for ever, which the scheduler sees.
    while !(is_stopping && batcher.is_idle()) {
        let (step, _) = batcher.step(now);
        let command = match step {
            Step::Run(batch) => {
                device.send(batch).unwrap();
                None
            }
            Step::Wait if is_stopping && batcher.is_idle() => None,
            Step::Wait => Some(inbox.recv().unwrap()),
            Step::WaitUntil(at) => {
                now = now.max(at);
                inbox.try_recv().ok()
            }
        };
        match command {
            Some(Command::Submit(entry)) => batcher.submit(entry),
            Some(Command::Done(tokens)) => batcher.batch_done(tokens, Duration::from_millis(1)),
            Some(Command::Stop) => is_stopping = true,
            None => {}
        }
    }
}

/// The device's thread.
fn compute(batches: &Receiver<Batch>, done: &Sender<Command>, now: Instant) {
    let mut out = Vec::new();
    while let Ok(batch) = batches.recv() {
        execute(&batch, &mut Device, &mut out, || now);
        done.send(Command::Done(batch.packed.num_tokens())).unwrap();
    }
}

/// Waits for its answer: both rows, or that the device failed.
fn wait(token: u32, waiting: Waiting) {
    match block_on(waiting).expect("every admitted request is answered") {
        Ok(rows) => assert_eq!(rows.values, [token as f32; 2]),
        Err(Error::Unavailable { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_client_is_answered_and_no_cancelled_request_reaches_the_device() {
    under_all_schedules(|| {
        let now = clock::now();
        let (commands, inbox) = channel();
        let (to_device, batches) = channel();
        let batcher = thread::spawn(move || drive(&inbox, &to_device, now));
        let done = commands.clone();
        let device = thread::spawn(move || compute(&batches, &done, now));
        let mut clients: Vec<_> = (0..PATIENT_CLIENTS)
            .map(|token| {
                let commands = commands.clone();
                thread::spawn(move || {
                    let (entry, waiting) = request(token, now);
                    commands.send(Command::Submit(entry)).unwrap();
                    wait(token, waiting);
                })
            })
            .collect();
        // One leaves before it is queued, one at any time after.
        for token in [GONE, GONE - 1] {
            let commands = commands.clone();
            clients.push(thread::spawn(move || {
                let (entry, waiting) = request(token, now);
                if token == GONE {
                    drop(waiting);
                    commands.send(Command::Submit(entry)).unwrap();
                } else {
                    commands.send(Command::Submit(entry)).unwrap();
                    thread::yield_now();
                    drop(waiting);
                }
            }));
        }
        for client in clients {
            client.join().unwrap();
        }
        commands.send(Command::Stop).unwrap();
        batcher.join().unwrap();
        device.join().unwrap();
    });
}
