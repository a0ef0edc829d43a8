//! A device whose scores can be checked by hand, and requests for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rerankd::batch::{Answer, Class, Entry, Rows, Sequences, Share, TenantId};
use rerankd::engine::packed::Packed;
use rerankd::error::DeviceError;
use rerankd::error::Error;
use rerankd::model::Scorer;
use tokio::sync::oneshot;

pub type Receiver = oneshot::Receiver<Result<Rows, Error>>;

/// A place on the clock from which tests count; its own value never matters.
#[allow(clippy::disallowed_methods)]
pub fn epoch() -> Instant {
    Instant::now()
}

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The row a sequence gets: depends on all its tokens and their order, and on nothing else.
pub fn expected_row(input_ids: &[u32]) -> [f32; 2] {
    let hash = input_ids.iter().fold(7u32, |h, &id| h.wrapping_mul(31).wrapping_add(id) % 65_521);
    [hash as f32, input_ids.len() as f32]
}

/// What the fake device does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Well,
    Fault,
    Panic,
    NotANumber,
}

/// A device that scores by [`expected_row`], or fails as it is told.
#[derive(Debug)]
pub struct FakeDevice {
    pub behaviour: Behaviour,
}

impl Scorer for FakeDevice {
    fn width(&self) -> usize {
        2
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        match self.behaviour {
            Behaviour::Fault => return Err(DeviceError::new("injected")),
            Behaviour::Panic => std::panic::panic_any(INJECTED),
            Behaviour::Well | Behaviour::NotANumber => {}
        }
        for (i, row) in out.chunks_exact_mut(2).enumerate() {
            row.copy_from_slice(&expected_row(&batch.input_ids[batch.rows(i)]));
        }
        if self.behaviour == Behaviour::NotANumber {
            out[0] = f32::NAN;
        }
        Ok(())
    }
}

pub const INJECTED: &str = "injected panic";

/// Keeps the panics that tests inject out of their output; others print as ever.
pub fn quiet_injected_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&INJECTED) {
                print(info);
            }
        }));
    });
}

/// A request of sequences with these lengths; `salt` makes its tokens its own.
pub fn sequences(seqlens: &[usize], salt: u32) -> Arc<Sequences> {
    let mut sequences = Sequences::default();
    for (i, &len) in seqlens.iter().enumerate() {
        let ids: Vec<u32> = (0..len as u32).map(|t| salt * 101 + i as u32 * 17 + t).collect();
        sequences.push(&[&ids], len.div_ceil(2));
    }
    Arc::new(sequences)
}

/// splitmix64 (Steele, Lea & Flood, 2014): small, seedable, good enough to pick scenarios.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `low..=high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// An entry of the normal class and the end at which its client waits.
pub fn entry(
    tenant: u32,
    weight: u32,
    sequences: &Arc<Sequences>,
    arrived: Instant,
    deadline: Option<Instant>,
) -> (Entry, Receiver) {
    let share = Share { tenant: TenantId(tenant), weight, class: Class::Normal };
    entry_of(share, sequences, arrived, deadline)
}

pub fn entry_of(
    share: Share,
    sequences: &Arc<Sequences>,
    arrived: Instant,
    deadline: Option<Instant>,
) -> (Entry, Receiver) {
    let (answer, receiver) = Answer::new(sequences.len(), 2);
    let entry = Entry {
        share,
        priority: 0,
        sequences: Arc::clone(sequences),
        answer: Arc::new(answer),
        arrived,
        deadline,
    };
    (entry, receiver)
}

/// Whether `rows` are exactly the rows of `sequences`, in order.
pub fn is_right(rows: &Rows, sequences: &Sequences) -> bool {
    let expected = (0..sequences.len()).flat_map(|i| expected_row(sequences.get(i).0));
    rows.values.iter().copied().eq(expected)
}
