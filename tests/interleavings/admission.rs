//! Permits.

use std::time::Duration;

use interleavings::admit::{Admission, Bounds};
use interleavings::batch::{Class, Rate, Share, TenantId};
use interleavings::error::Error;
use interleavings::sync::Arc;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::under_all_schedules;

const BOUNDS: Bounds = Bounds { max_backlog_tokens: 100, max_requests: 3, max_length: 64 };
const TENANTS: usize = 3;
const MOST_TOKENS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(3600);

/// A tenant that comes again and again, and corrects what it was let in with.
fn come_and_go(admission: &Admission, tenant: usize) {
    let share = Share { tenant: TenantId(tenant as u32), weight: 1, class: Class::Normal };
    for _ in 0..3 {
        match admission.admit(thread_rng().gen_range(1..=MOST_TOKENS), share, PATIENCE) {
            Ok(mut permit) => {
                let tokens = thread_rng().gen_range(0..=MOST_TOKENS);
                permit.correct(tokens);
                let backlog = admission.backlog_tokens();
                assert!(backlog >= tokens, "{tokens} are held, but the backlog is {backlog}");
                // The bound, everybody's part beside it, and a request of each (`Bounds`).
                let most = 2 * BOUNDS.max_backlog_tokens + TENANTS * MOST_TOKENS;
                assert!(backlog <= most, "{backlog} tokens were let in");
            }
            Err(Error::Overloaded { retry_after, .. }) => {
                assert!(retry_after >= Duration::from_secs(1));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn permits_add_up_whoever_comes_and_goes() {
    under_all_schedules(|| {
        let admission = Arc::new(Admission::new(BOUNDS, Rate::new(1000.0)));
        let tenants = (0..TENANTS).map(|tenant| {
            let admission = Arc::clone(&admission);
            thread::spawn(move || come_and_go(&admission, tenant))
        });
        let tenants: Vec<_> = tenants.collect();
        for tenant in tenants {
            tenant.join().unwrap();
        }
        assert_eq!(admission.backlog_tokens(), 0);
        // No request is left in the books either: whoever comes now is alone, and let in whatever it brings.
        let share = Share { tenant: TenantId(9), weight: 1, class: Class::Low };
        let permit = admission.admit(10_000, share, Duration::ZERO).unwrap();
        assert_eq!(admission.backlog_tokens(), 10_000);
        drop(permit);
        assert_eq!(admission.backlog_tokens(), 0);
    });
}
