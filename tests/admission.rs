//! The door: bounded, fair to the lone request, and honest about when to come back.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rerankd::admit::{Admission, Bounds, Permit};
use rerankd::batch::{Class, Rate, Share, TenantId};
use rerankd::error::Error;
use rerankd::request::Inputs;

const PATIENT: Duration = Duration::from_secs(600);

/// 1,000 tokens a second, room for 10,000.
fn door(max_requests: usize) -> Admission {
    let bounds = Bounds { max_backlog_tokens: 10_000, max_requests, max_length: 512 };
    Admission::new(bounds, Rate::new(1000.0))
}

fn admit(door: &Admission, num_documents: usize, timeout: Duration) -> Result<Permit, Error> {
    admit_as(door, Share::ANONYMOUS, num_documents, timeout)
}

fn admit_as(
    door: &Admission,
    share: Share,
    num_documents: usize,
    timeout: Duration,
) -> Result<Permit, Error> {
    let inputs = Inputs::OneQuery {
        query: String::new(),
        // 97 tokens and 3 special ones, by the estimate.
        documents: vec!["x".repeat(4 * 97); num_documents],
    };
    door.admit(door.estimate(&inputs), share, timeout)
}

fn tenant(id: u32, weight: u32, class: Class) -> Share {
    Share { tenant: TenantId(id), weight, class }
}

fn retry_after(error: &Error) -> Duration {
    let verdict = error.verdict();
    assert_eq!((verdict.status, verdict.retry), (429, true));
    verdict.retry_after.expect("every refusal has a retry-after")
}

#[test]
fn what_is_given_back_can_be_admitted_again() {
    let door = door(10);
    let first = admit(&door, 90, PATIENT).unwrap();
    assert_eq!(door.backlog_tokens(), 9000);
    assert!(admit(&door, 20, PATIENT).is_err());
    assert_eq!(door.backlog_tokens(), 9000, "a refusal holds nothing");
    drop(first);
    assert_eq!(door.backlog_tokens(), 0);
    assert!(admit(&door, 20, PATIENT).is_ok());
}

#[test]
fn a_refusal_says_when_there_will_be_room() {
    let door = door(10);
    let _first = admit(&door, 90, PATIENT).unwrap();
    // 3,000 tokens too many, at 1,000 a second.
    assert_eq!(retry_after(&admit(&door, 40, PATIENT).unwrap_err()), Duration::from_secs(3));
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_at_the_door() {
    let door = door(10);
    let _first = admit(&door, 50, PATIENT).unwrap();
    // Four fifths of the time are promised away: 4,000 tokens, of which 6,000 are 2,000 too many.
    let timeout = Duration::from_secs(5);
    let error = admit(&door, 10, timeout).unwrap_err();
    assert_eq!(retry_after(&error), Duration::from_secs(2));
    assert!(admit(&door, 10, Duration::from_secs(8)).is_ok());
}

#[test]
fn a_request_larger_than_the_backlog_is_let_in_when_it_is_alone() {
    let door = door(10);
    let huge = admit(&door, 5000, PATIENT).unwrap();
    assert!(admit(&door, 1, PATIENT).is_err());
    drop(huge);
    assert!(admit(&door, 1, PATIENT).is_ok());
}

#[test]
fn requests_are_bounded_however_small_they_are() {
    let door = door(3);
    let _inside: Vec<_> = (0..3).map(|_| admit(&door, 1, PATIENT).unwrap()).collect();
    assert!(retry_after(&admit(&door, 1, PATIENT).unwrap_err()) >= Duration::from_secs(1));
}

#[test]
fn the_estimate_is_corrected_by_what_was_found() {
    let door = door(10);
    let mut permit = admit(&door, 10, PATIENT).unwrap();
    permit.correct(1500);
    assert_eq!(door.backlog_tokens(), 1500);
    permit.correct(700);
    assert_eq!(door.backlog_tokens(), 700);
    drop(permit);
    assert_eq!(door.backlog_tokens(), 0);
}

#[test]
fn a_tenant_has_its_part_of_the_backlog_however_full_another_has_made_it() {
    let door = door(10);
    let (flood, light) = (tenant(1, 1, Class::Normal), tenant(2, 1, Class::Normal));
    let _flood: Vec<_> = (0..2).map(|_| admit_as(&door, flood, 50, PATIENT).unwrap()).collect();
    assert!(admit_as(&door, flood, 1, PATIENT).is_err());
    let _light: Vec<_> = (0..5).map(|_| admit_as(&door, light, 10, PATIENT).unwrap()).collect();
    // Half of 10,000 is its part.
    assert!(admit_as(&door, light, 1, PATIENT).is_err());
}

#[test]
fn a_tenant_has_its_part_of_the_requests() {
    let door = door(4);
    let (flood, light) = (tenant(1, 3, Class::Normal), tenant(2, 1, Class::Normal));
    let _flood: Vec<_> = (0..4).map(|_| admit_as(&door, flood, 1, PATIENT).unwrap()).collect();
    let _light = admit_as(&door, light, 1, PATIENT).unwrap();
    assert!(admit_as(&door, light, 1, PATIENT).is_err(), "a quarter of four is its part");
    assert!(admit_as(&door, flood, 1, PATIENT).is_err());
}

#[test]
fn a_deadline_is_held_against_the_part_of_the_device_that_the_tenant_gets() {
    let door = door(10);
    let (flood, light) = (tenant(1, 3, Class::Normal), tenant(2, 1, Class::Normal));
    let _flood = admit_as(&door, flood, 90, PATIENT).unwrap();
    // 1,000 tokens at a quarter of 1,000 a second, in four fifths of the time.
    let millis = Duration::from_millis;
    assert!(admit_as(&door, light, 10, millis(5010)).is_ok());
    let error = admit_as(&door, light, 10, millis(3750)).unwrap_err();
    assert_eq!(retry_after(&error), millis(1000));
}

#[test]
fn a_higher_class_does_not_wait_for_a_lower_one() {
    let door = door(10);
    let _low = admit_as(&door, tenant(1, 1, Class::Low), 90, PATIENT).unwrap();
    // Enough for the 1,000 tokens of one of them.
    let time = Duration::from_millis(1300);
    let _high = admit_as(&door, tenant(2, 1, Class::High), 10, time).unwrap();
    assert!(admit_as(&door, tenant(3, 1, Class::Normal), 10, time).is_err(), "high goes first");
    assert!(admit_as(&door, tenant(3, 1, Class::Normal), 10, 2 * time).is_ok());
}

proptest::proptest! {
    /// Whatever comes, is corrected and goes, nothing is left behind and nothing goes below zero.
    #[test]
    fn what_is_inside_adds_up(steps in proptest::collection::vec((0u32..4, 0usize..40, 0usize..3), 0..200)) {
        let door = door(20);
        let mut inside = Vec::new();
        for (id, size, what) in steps {
            match what {
                0 => {
                    let class = [Class::High, Class::Normal, Class::Low][size % 3];
                    let share = tenant(id, id + 1, class);
                    inside.extend(door.admit(size * 100, share, PATIENT).map(|p| (p, size * 100)));
                }
                1 if !inside.is_empty() => drop(inside.swap_remove(size % inside.len())),
                _ => if let Some((permit, tokens)) = inside.last_mut() {
                    *tokens = size * 10;
                    permit.correct(*tokens);
                },
            }
            let held: usize = inside.iter().map(|(_, tokens)| tokens).sum();
            proptest::prop_assert_eq!(door.backlog_tokens(), held);
        }
        drop(inside);
        proptest::prop_assert_eq!(door.backlog_tokens(), 0);
    }
}
