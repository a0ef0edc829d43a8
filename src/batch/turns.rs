//! Whose batch is next on a device that several models share.
//!
//! Each model has a batcher of its own, which shares its batches between tenants in tokens. Between the models the
//! unit is time, since their tokens differ in cost: the next turn is that of the batch with the tenant that has had
//! least of the device by its weight (start-time fair queueing: Goyal, Vin & Cheng, 1996). A higher class goes first,
//! yet whoever waits longest is passed over for eight turns at most. So a flood of one model delays another's request
//! by the batch that runs, and by those of tenants that have had less.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plan::MAX_BATCHES_PASSED;
use super::{Batch, Class, TenantId};

/// The turns of one device, shared by the models on it.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    line: Mutex<Line>,
    /// The turn went on.
    moved: Condvar,
}

/// The line without its threads.
#[derive(Debug, Default)]
struct Line {
    next_ticket: u64,
    running: Option<u64>,
    waiting: Vec<Waiting>,
    /// Seconds of the device by weight that a tenant has had; of those only who are ahead of `floor`.
    used: HashMap<TenantId, f64>,
    /// Where the latest turn began: whoever was away has no claim on the time before.
    floor: f64,
    /// Turns in a row that passed over whoever waits longest.
    num_passed: usize,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    class: Class,
    parts: Vec<Part>,
}

/// What a tenant has of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    tenant: TenantId,
    weight: f64,
    tokens: usize,
}

/// A device thread's place in the line.
#[derive(Debug)]
pub(super) struct Seat {
    turns: Turns,
    /// Of the turn it waits for or has.
    ticket: Mutex<Option<u64>>,
}

impl Turns {
    pub(super) fn seat(&self) -> Seat {
        Seat { turns: self.clone(), ticket: Mutex::new(None) }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.shared.line)
    }
}

impl Seat {
    /// Waits for this batch's turn, unless the last one was not given back.
    pub(super) fn take(&self, batch: &Batch) {
        if lock(&self.ticket).is_some() {
            return;
        }
        let mut line = self.turns.line();
        let ticket = line.join(class_of(batch), parts_of(batch));
        *lock(&self.ticket) = Some(ticket);
        line.advance();
        while line.running != Some(ticket) {
            let moved = self.turns.shared.moved.wait(line);
            line = moved.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The batch had the device for so long.
    pub(super) fn used(&self, batch: &Batch, took: Duration) {
        self.turns.line().charge(&parts_of(batch), took);
    }

    /// Gives the turn back. A thread that hangs does not: then whoever gives it up does.
    pub(super) fn leave(&self) {
        let Some(ticket) = lock(&self.ticket).take() else { return };
        let mut line = self.turns.line();
        line.leave(ticket);
        line.advance();
        self.turns.shared.moved.notify_all();
    }

    /// Whether another model waits for the device.
    pub(super) fn is_wanted(&self) -> bool {
        !self.turns.line().waiting.is_empty()
    }
}

impl Line {
    fn join(&mut self, class: Class, parts: Vec<Part>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push(Waiting { ticket, class, parts });
        ticket
    }

    /// Gives a free device to whoever is next.
    fn advance(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some(oldest) = self.waiting.iter().map(|waiting| waiting.ticket).min() else { return };
        let key = |waiting: &Waiting| (waiting.class, self.start(&waiting.parts), waiting.ticket);
        let by_key = |a: &usize, b: &usize| {
            let (a, b) = (key(&self.waiting[*a]), key(&self.waiting[*b]));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
        };
        let is_due = self.num_passed + 1 >= MAX_BATCHES_PASSED;
        let next = match is_due {
            true => self.waiting.iter().position(|waiting| waiting.ticket == oldest),
            false => (0..self.waiting.len()).min_by(by_key),
        };
        let Some(next) = next else { return };
        let Waiting { ticket, parts, .. } = self.waiting.swap_remove(next);
        self.num_passed = if ticket == oldest { 0 } else { self.num_passed + 1 };
        self.floor = self.floor.max(self.start(&parts));
        let floor = self.floor;
        self.used.retain(|_, used| *used > floor);
        self.running = Some(ticket);
    }

    /// Where the one of its tenants stands that has had least.
    fn start(&self, parts: &[Part]) -> f64 {
        let stands = parts.iter().map(|part| self.used.get(&part.tenant).copied());
        stands.map(|used| used.unwrap_or(self.floor)).fold(f64::INFINITY, f64::min).min(1e300)
    }

    fn charge(&mut self, parts: &[Part], took: Duration) {
        let total: usize = parts.iter().map(|part| part.tokens).sum();
        let floor = self.floor;
        for &Part { tenant, weight, tokens } in parts {
            let share = took.as_secs_f64() * tokens as f64 / total.max(1) as f64;
            *self.used.entry(tenant).or_insert(floor) += share / weight;
        }
    }

    fn leave(&mut self, ticket: u64) {
        if self.running == Some(ticket) {
            self.running = None;
        }
        self.waiting.retain(|waiting| waiting.ticket != ticket);
    }
}

fn class_of(batch: &Batch) -> Class {
    batch.slices.iter().map(|slice| slice.share.class).min().unwrap_or_default()
}

fn parts_of(batch: &Batch) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for slice in &batch.slices {
        let tokens = slice.sequences.tokens_in(slice.range.clone());
        match parts.iter_mut().find(|part| part.tenant == slice.share.tenant) {
            Some(part) => part.tokens += tokens,
            None => parts.push(Part {
                tenant: slice.share.tenant,
                weight: f64::from(slice.share.weight.max(1)),
                tokens,
            }),
        }
    }
    parts
}

/// Every change is complete before a lock is left, so what a panic poisoned is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(tenant: u32, weight: f64) -> Part {
        Part { tenant: TenantId(tenant), weight, tokens: 100 }
    }

    /// Models that always have a batch waiting: its class, its tenants, and how long it takes.
    type Model = (Class, Vec<Part>, Duration);

    /// Seconds of the device that each tenant had in so many turns.
    fn shares(models: &[Model], num_turns: usize) -> HashMap<u32, f64> {
        let mut line = Line::default();
        let join = |line: &mut Line, model: &Model| line.join(model.0, model.1.clone());
        let mut tickets: Vec<u64> = models.iter().map(|model| join(&mut line, model)).collect();
        let mut seconds = HashMap::new();
        for _ in 0..num_turns {
            line.advance();
            let running = line.running.expect("somebody waits");
            let i = tickets.iter().position(|&ticket| ticket == running).expect("its ticket");
            let (_, parts, took) = &models[i];
            line.charge(parts, *took);
            line.leave(running);
            for part in parts {
                *seconds.entry(part.tenant.0).or_default() +=
                    took.as_secs_f64() / parts.len() as f64;
            }
            tickets[i] = join(&mut line, &models[i]);
        }
        seconds
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[track_caller]
    fn assert_near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 0.05 * expected, "{got}, not {expected}");
    }

    #[test]
    fn tenants_of_different_models_have_equal_time_whatever_a_batch_takes() {
        let normal = Class::Normal;
        let models = [
            (normal, vec![part(1, 1.0), part(2, 1.0)], ms(100)),
            (normal, vec![part(3, 1.0)], ms(7)),
        ];
        let shares = shares(&models, 10_000);
        let all: f64 = shares.values().sum();
        for tenant in 1..=3 {
            assert_near(shares[&tenant], all / 3.0);
        }
    }

    #[test]
    fn a_heavier_tenant_has_more_by_its_weight() {
        let models = [
            (Class::Normal, vec![part(1, 3.0)], ms(20)),
            (Class::Normal, vec![part(2, 1.0)], ms(50)),
        ];
        let shares = shares(&models, 10_000);
        assert_near(shares[&1] / shares[&2], 3.0);
    }

    #[test]
    fn a_higher_class_goes_first_and_passes_a_lower_one_eight_times_at_most() {
        let models =
            [(Class::High, vec![part(1, 1.0)], ms(10)), (Class::Low, vec![part(2, 1.0)], ms(10))];
        let shares = shares(&models, 8000);
        assert_near(shares[&1] / shares[&2], 8.0);
    }

    #[test]
    fn whoever_was_away_is_next_and_has_saved_nothing_up() {
        let mut line = Line::default();
        for _ in 0..1000 {
            let ticket = line.join(Class::Normal, vec![part(1, 1.0)]);
            line.advance();
            line.charge(&[part(1, 1.0)], ms(100));
            line.leave(ticket);
        }
        let mut turns = Vec::new();
        let mut tickets = [1, 2].map(|t| line.join(Class::Normal, vec![part(t, 1.0)]));
        for _ in 0..7 {
            line.advance();
            let tenant = usize::from(line.running == Some(tickets[1]));
            let parts = vec![part(tenant as u32 + 1, 1.0)];
            line.charge(&parts, ms(100));
            line.leave(tickets[tenant]);
            tickets[tenant] = line.join(Class::Normal, parts);
            turns.push(tenant + 1);
        }
        assert_eq!(turns[0], 2, "it does not wait behind the flood");
        let newcomers = turns.iter().filter(|&&tenant| tenant == 2).count();
        assert!((3..=5).contains(&newcomers), "{turns:?}");
    }

    #[test]
    fn a_turn_that_is_given_up_goes_on_and_comes_back_once() {
        let turns = Turns::default();
        let batch = Batch::lay_out(Vec::new());
        let (hanging, next) = (turns.seat(), turns.seat());
        hanging.take(&batch);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| next.take(&batch));
            while !hanging.is_wanted() {
                std::thread::yield_now();
            }
            hanging.leave();
            waits.join().unwrap();
        });
        hanging.leave();
        assert!(turns.line().running.is_some(), "the turn is the other's");
        next.leave();
        assert!(turns.line().running.is_none());
    }
}
