//! The door: bounded, fair to the lone request, and honest about when to come back.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rerankd::admit::{Admission, Bounds, Permit};
use rerankd::batch::Rate;
use rerankd::error::Error;
use rerankd::request::{Inputs, RerankRequest, Truncation};

const PATIENT: Duration = Duration::from_secs(600);

/// 1,000 tokens a second, room for 10,000.
fn door(max_requests: usize) -> Admission {
    let bounds = Bounds { max_backlog_tokens: 10_000, max_requests, max_length: 512 };
    Admission::new(bounds, Rate::new(1000.0))
}

fn admit(door: &Admission, num_documents: usize, timeout: Duration) -> Result<Permit, Error> {
    let request = RerankRequest {
        id: String::new(),
        model: None,
        inputs: Inputs::OneQuery {
            query: String::new(),
            // 97 tokens and 3 special ones, by the estimate.
            documents: vec!["x".repeat(4 * 97); num_documents],
        },
        truncation: Truncation::default(),
        timeout: None,
        may_cache: false,
    };
    door.admit(&request, timeout)
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
    let timeout = Duration::from_secs(4);
    let error = admit(&door, 10, timeout).unwrap_err();
    assert_eq!(retry_after(&error), Duration::from_secs(2));
    assert!(admit(&door, 10, Duration::from_secs(7)).is_ok());
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
