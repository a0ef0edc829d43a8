//! Rates of tenants on a clock of their own, and what a reload of the keys file keeps.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rerankd::clock;
use rerankd::error::Error;
use rerankd::request::{Answer, RerankResponse, Stamps};
use rerankd::tenant::{KeyHash, Meter, Quota, Source, Spent, Tenant, Tenants};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn requests(rate: f64) -> Quota {
    Quota { requests_per_second: Some(rate), ..Quota::default() }
}

fn tokens(rate: f64) -> Quota {
    Quota { tokens_per_second: Some(rate), ..Quota::default() }
}

/// When a refused request may come again; none if it is let in.
fn wait(meter: &mut Meter, quota: &Quota, tokens: usize, now: Instant) -> Option<Duration> {
    match meter.admit(quota, tokens, now) {
        Ok(()) => None,
        Err(Error::RateLimited { retry_after, .. }) => Some(retry_after),
        Err(other) => panic!("an error nobody promised: {other}"),
    }
}

#[test]
fn what_a_second_allows_may_come_at_once_and_then_the_wait_is_exact() {
    let (mut meter, quota, now) = (Meter::default(), requests(2.0), clock::now());
    assert_eq!(wait(&mut meter, &quota, 9, now), None);
    assert_eq!(wait(&mut meter, &quota, 9, now), None);
    assert_eq!(wait(&mut meter, &quota, 9, now), Some(seconds(0.5)));
    assert_eq!(wait(&mut meter, &quota, 9, now + seconds(0.25)), Some(seconds(0.25)));
    assert_eq!(wait(&mut meter, &quota, 9, now + seconds(0.5)), None);
}

#[test]
fn idle_time_is_saved_up_to_one_second_of_it() {
    let (mut meter, quota, now) = (Meter::default(), requests(3.0), clock::now());
    assert_eq!(wait(&mut meter, &quota, 9, now), None);
    let later = now + seconds(3600.0);
    for _ in 0..3 {
        assert_eq!(wait(&mut meter, &quota, 9, later), None);
    }
    assert!(wait(&mut meter, &quota, 9, later).is_some());
}

#[test]
fn a_request_larger_than_the_burst_waits_for_a_full_bucket_and_then_owes_the_rest() {
    let (mut meter, quota, now) = (Meter::default(), tokens(100.0), clock::now());
    assert_eq!(wait(&mut meter, &quota, 500, now), None);
    // 400 in debt: a full bucket is five seconds away, room for one token four.
    assert_eq!(wait(&mut meter, &quota, 500, now), Some(seconds(5.0)));
    let small = wait(&mut meter, &quota, 1, now).unwrap();
    assert!((small.as_secs_f64() - 4.01).abs() < 1e-6, "{small:?}");
}

#[test]
fn the_estimate_is_corrected_and_a_refusal_elsewhere_gives_all_back() {
    let (mut meter, quota, now) = (Meter::default(), tokens(100.0), clock::now());
    assert_eq!(wait(&mut meter, &quota, 90, now), None);
    meter.take(&quota, Spent { requests: 0.0, tokens: -60.0 }, now);
    assert_eq!(wait(&mut meter, &quota, 70, now), None, "30 of 100 were used");
    assert!(wait(&mut meter, &quota, 1, now).is_some());
    assert_eq!(meter.spent(), Spent { requests: 2.0, tokens: 100.0 });
    assert_eq!(meter.spent(), Spent::default());
}

#[test]
fn what_others_spent_locks_nobody_out_for_long() {
    let (mut meter, quota, now) = (Meter::default(), requests(10.0), clock::now());
    meter.take_elsewhere(&quota, Spent { requests: 1e9, tokens: 0.0 }, now);
    assert!(wait(&mut meter, &quota, 1, now).unwrap() <= seconds(11.0));
    assert_eq!(meter.spent(), Spent::default(), "it is not told again as spent here");
}

proptest! {
    /// Over any stretch of time no more is let in than one burst and the rate times the stretch.
    #[test]
    fn a_rate_is_kept_over_any_stretch(
        rate in 1.0f64..50.0,
        gaps in prop::collection::vec((0u64..400, 1usize..20), 1..200),
    ) {
        let (mut meter, quota) = (Meter::default(), tokens(rate));
        let start = clock::now();
        let mut now = start;
        let mut admitted: Vec<(Duration, f64)> = Vec::new();
        for (gap_ms, cost) in gaps {
            now += Duration::from_millis(gap_ms);
            // A cost above the burst may go into debt; the bound below is for those that fit.
            let cost = cost.min(rate as usize);
            if wait(&mut meter, &quota, cost, now).is_none() {
                admitted.push((now - start, cost as f64));
            }
        }
        for (i, (from, _)) in admitted.iter().enumerate() {
            let mut sum = 0.0;
            for (at, cost) in &admitted[i..] {
                sum += cost;
                let most = rate + rate * (*at - *from).as_secs_f64();
                prop_assert!(sum <= most + 1e-6, "{sum} within {:?}, not {most}", *at - *from);
            }
        }
    }
}

fn write(path: &Path, tenants: &str, keys: &[(&str, &str)]) {
    let key = |(tenant, key): &(&str, &str)| {
        format!("[[keys]]\ntenant = \"{tenant}\"\nsha256 = \"{}\"\n", KeyHash::of(key).hex())
    };
    let keys: String = keys.iter().map(key).collect();
    std::fs::write(path, format!("{tenants}\n{keys}")).unwrap();
}

fn find(tenants: &Tenants, key: &str) -> Result<Arc<Tenant>, Error> {
    tenants.find(std::iter::once(key))
}

#[test]
fn a_reload_keeps_what_a_tenant_used_and_its_number_and_takes_the_new_limits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    write(
        &path,
        "[[tenants]]\nname = \"a\"\n[[tenants]]\nname = \"b\"",
        &[("a", "k1"), ("b", "k2")],
    );
    let tenants = Tenants::open(Source::File(path.clone())).unwrap();
    let (a, b) = (find(&tenants, "k1").unwrap(), find(&tenants, "k2").unwrap());
    a.refused();
    assert_eq!(tenants.reload(), Ok(false), "nothing has changed");

    let changed =
        "[[tenants]]\nname = \"c\"\n[[tenants]]\nname = \"a\"\nweight = 7\nrequests_per_second = 1";
    write(&path, changed, &[("a", "k3"), ("c", "k2")]);
    assert_eq!(tenants.reload(), Ok(true));
    let after = find(&tenants, "k3").unwrap();
    assert_eq!((after.counts().refusals, after.share.tenant), (1, a.share.tenant));
    assert_eq!((after.share.weight, after.quota.requests_per_second), (7, Some(1.0)));
    assert_eq!(find(&tenants, "k1").unwrap_err(), Error::WrongKey);
    let c = find(&tenants, "k2").unwrap();
    assert!(![a.share.tenant, b.share.tenant].contains(&c.share.tenant), "no number is used twice");
}

#[test]
fn the_first_known_key_counts_and_none_is_told_from_wrong() {
    let tenants = Tenants::open(Source::Keys(vec![KeyHash::of("right")])).unwrap();
    assert!(tenants.find(["wrong", "right"].into_iter()).is_ok());
    assert_eq!(tenants.find(std::iter::empty()).unwrap_err(), Error::NoKey);
    assert_eq!(find(&tenants, "wrong").unwrap_err(), Error::WrongKey);
    assert!(Tenants::anonymous().find(std::iter::empty()).is_ok());
}

#[test]
fn places_among_the_concurrent_come_back_however_a_request_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    write(&path, "[[tenants]]\nname = \"a\"\nmax_concurrent_requests = 2", &[("a", "k")]);
    let tenant = find(&Tenants::open(Source::File(path)).unwrap(), "k").unwrap();
    let now = clock::now();
    let first = tenant.charge(1, now).unwrap();
    let second = tenant.charge(1, now).unwrap();
    assert!(tenant.charge(1, now).is_err());
    assert!(tenant.charge(1, now).is_err(), "a refusal holds no place");
    drop(first);
    second.refund(now);
    let _both = (tenant.charge(1, now).unwrap(), tenant.charge(1, now).unwrap());
    assert!(tenant.charge(1, now).is_err());
}

/// A response that took so long.
fn response(took: Duration) -> RerankResponse {
    let now = clock::now();
    RerankResponse {
        id: String::new(),
        model: String::new(),
        results: Vec::new(),
        label_logits: Vec::new(),
        labels: Vec::new(),
        prompt_tokens: 0,
        num_chars: 0,
        num_precomputed: 0,
        is_degraded: false,
        stamps: Stamps { scored: now + took, ..Stamps::at(now) },
    }
}

#[test]
fn a_place_among_the_concurrent_is_promised_for_when_one_is_expected_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    write(&path, "[[tenants]]\nname = \"a\"\nmax_concurrent_requests = 4", &[("a", "k")]);
    let tenant = find(&Tenants::open(Source::File(path)).unwrap(), "k").unwrap();
    let now = clock::now();
    let _under_way: Vec<_> = (0..4).map(|_| tenant.charge(1, now).unwrap()).collect();
    let retry_after = || match tenant.charge(1, now) {
        Err(Error::RateLimited { retry_after, .. }) => retry_after,
        other => panic!("not refused for its number: {other:?}"),
    };
    assert_eq!(retry_after(), seconds(1.0), "nothing is known yet: the least that clients respect");
    tenant.answered(&response(seconds(20.0)).tally());
    assert_eq!(retry_after(), seconds(5.0), "one of four that take 20 seconds each");
    (0..100).for_each(|_| tenant.answered(&response(seconds(12.0)).tally()));
    let later = retry_after().as_secs_f64();
    assert!((later - 3.0).abs() < 0.01, "the latest count: {later}");
}
