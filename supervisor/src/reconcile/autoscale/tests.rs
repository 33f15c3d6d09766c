//! A table of cases worked out by hand, and what holds of all cases.

use proptest::prelude::*;

use super::*;
use crate::reconcile::world::moment;

const SECOND: Duration = Duration::from_secs(1);

fn bounds(min: u32, max: u32) -> AutoscalingSpec {
    AutoscalingSpec { min_replicas: min, max_replicas: max, ..AutoscalingSpec::default() }
}

/// Serving as many as are wanted, with so much to do.
fn load(scaler: &Autoscaler, running: u64) -> Load {
    Load { serving: scaler.number(), running, waiting: 0 }
}

#[test]
fn aims_by_hand() {
    // min, max, up, down, current, load, aim; the target is 2 for each replica.
    for (min, max, up, down, current, load, expected) in [
        (1, 10, 1.0, 1.0, 1, 2.0, 1),
        (1, 10, 1.0, 1.0, 1, 2.1, 2),
        (1, 10, 1.0, 1.0, 5, 17.2, 9),
        (1, 8, 1.0, 1.0, 5, 17.2, 8),
        (1, 10, 0.5, 1.0, 5, 17.2, 7),
        (1, 100, 2.0, 1.0, 5, 17.2, 13),
        (1, 10, 1.0, 1.0, 5, 10.0, 5),
        (1, 10, 1.0, 1.0, 5, 9.9, 5),
        (1, 10, 1.0, 1.0, 5, 8.0, 4),
        // The factor alone would hold it at 5 for ever.
        (1, 10, 1.0, 0.1, 5, 6.0, 4),
        (1, 10, 1.0, 0.5, 8, 4.0, 5),
        (2, 10, 1.0, 1.0, 5, 0.0, 2),
        // Zero is reached from one alone.
        (0, 10, 1.0, 1.0, 5, 0.0, 1),
        (0, 10, 1.0, 1.0, 1, 0.0, 0),
        (0, 10, 1.0, 0.5, 1, 0.0, 0),
        (0, 10, 1.0, 1.0, 1, 0.1, 1),
        (1, 10, 1.0, 1.0, 1, 0.0, 1),
    ] {
        let spec = AutoscalingSpec { upscaling_factor: up, downscaling_factor: down, ..bounds(min, max) };
        assert_eq!(aim(&spec, current, load), expected, "{current} with {load} in {min}..={max}");
    }
}

#[test]
fn more_must_be_wanted_for_the_whole_delay() {
    let (spec, start) = (bounds(1, 8), moment());
    let mut scaler = Autoscaler::new(&spec, spec.initial());
    let first = load(&scaler, 10);
    assert!(
        matches!(scaler.decide(&spec, first, start), Decision::Lean { until, .. } if until == start + SECOND * 30)
    );
    assert!(matches!(scaler.decide(&spec, first, start + SECOND * 29), Decision::Lean { .. }));
    let decision = scaler.decide(&spec, first, start + SECOND * 30);
    assert_eq!(
        decision,
        Decision::Move { why: "1 -> 5: 10.0 ongoing against a target of 2 for 30 s".to_owned() }
    );
    assert_eq!(scaler.number(), 5);
}

#[test]
fn a_change_of_direction_starts_the_delay_again() {
    let spec = AutoscalingSpec { look_back_period: Duration::ZERO, ..bounds(1, 8) };
    let start = moment();
    let mut scaler = Autoscaler::new(&spec, 2);
    let at = |second: u64| start + SECOND * u32::try_from(second).unwrap();
    for (second, running) in [(0, 10), (20, 0), (21, 10), (50, 10)] {
        let load = load(&scaler, running);
        assert!(matches!(scaler.decide(&spec, load, at(second)), Decision::Lean { .. }), "{second}");
    }
    let load = load(&scaler, 10);
    assert!(matches!(scaler.decide(&spec, load, at(51)), Decision::Move { .. }));
}

#[test]
fn the_mean_is_weighted_by_time() {
    let spec =
        AutoscalingSpec { upscale_delay: SECOND * 1_000, downscale_delay: SECOND * 1_000, ..bounds(1, 99) };
    let start = moment();
    let mut scaler = Autoscaler::new(&spec, 1);
    for (second, running) in [(0, 10), (10, 40), (15, 0)] {
        let load = load(&scaler, running);
        let _ = scaler.decide(&spec, load, start + SECOND * second);
    }
    let near = |second: u32, expected: f64| {
        let mean = scaler.load(&spec, start + SECOND * second);
        assert!((mean - expected).abs() < 1e-6, "{mean} at {second}");
    };
    near(20, (10.0 * 10.0 + 5.0 * 40.0) / 20.0);
    // The first five seconds have left the 30 s.
    near(35, (5.0 * 10.0 + 5.0 * 40.0) / 30.0);
    near(60, 0.0);
}

#[test]
fn the_first_request_brings_a_replica_at_once_and_silence_takes_the_last_one() {
    let spec = AutoscalingSpec { downscale_to_zero_delay: Some(SECOND * 5), ..bounds(0, 8) };
    let start = moment();
    let mut scaler = Autoscaler::new(&spec, spec.initial());
    assert_eq!(scaler.decide(&spec, Load::default(), start), Decision::Stay);
    let waits = Load { serving: 0, running: 0, waiting: 3 };
    let decision = scaler.decide(&spec, waits, start);
    assert_eq!(decision, Decision::Move { why: "0 -> 1: 3 waiting, and there is no replica".to_owned() });
    // While it starts, nothing more is decided.
    assert_eq!(scaler.decide(&spec, waits, start + SECOND), Decision::Stay);
    let idle = load(&scaler, 0);
    let quiet = start + SECOND * 60;
    let _ = scaler.decide(&spec, idle, quiet);
    assert!(matches!(
        scaler.decide(&spec, idle, quiet + SECOND * 31),
        Decision::Lean { .. } | Decision::Move { .. }
    ));
    let _ = scaler.decide(&spec, idle, quiet + SECOND * 40);
    assert_eq!(scaler.number(), 0);
}

#[test]
fn the_last_replica_does_not_go_while_there_is_something_to_do() {
    let zero = Duration::ZERO;
    let spec = AutoscalingSpec { downscale_delay: zero, look_back_period: zero, ..bounds(0, 8) };
    let start = moment();
    let mut scaler = Autoscaler::new(&spec, 1);
    // The look at the load is a little older than the request that has come meanwhile.
    let busy = Load { serving: 1, running: 0, waiting: 1 };
    let _ = scaler.decide(&spec, busy, start);
    let idle = Load { serving: 1, ..Load::default() };
    assert_eq!(scaler.decide(&spec, idle, start + SECOND / 2), Decision::Stay);
    assert!(matches!(scaler.decide(&spec, idle, start + SECOND), Decision::Move { .. }));
    let mut scaler = Autoscaler::new(&spec, 1);
    let _ = scaler.decide(&AutoscalingSpec { min_replicas: 1, ..spec.clone() }, idle, start);
    assert_eq!(scaler.decide(&spec, busy, start + SECOND / 2), Decision::Stay);
    assert_eq!(scaler.number(), 1);
}

#[test]
fn other_bounds_hold_at_once() {
    let mut scaler = Autoscaler::new(&bounds(1, 10), 7);
    scaler.accept(&bounds(1, 3));
    assert_eq!((scaler.number(), scaler.last_decision()), (3, Some("7 -> 3: other bounds")));
    scaler.accept(&bounds(2, 5));
    assert_eq!(scaler.number(), 3);
}

fn specs() -> impl Strategy<Value = AutoscalingSpec> {
    (0_u32..20, 1_u32..50, 0.1_f64..20.0, 0.1_f64..3.0, 0.1_f64..1.0, 0_u32..10, 0_u32..15, 0_u32..10)
        .prop_map(|(min, more, target, up, down, upscale, downscale, look_back)| AutoscalingSpec {
            min_replicas: min,
            max_replicas: min + more,
            target_ongoing_requests: target,
            upscaling_factor: up,
            downscaling_factor: down,
            upscale_delay: SECOND * upscale,
            downscale_delay: SECOND * downscale,
            look_back_period: SECOND * look_back,
            ..AutoscalingSpec::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Within the bounds; never past what the load needs while the factor is at most 1; up with more, down with less.
    #[test]
    fn aims_are_sound(spec in specs(), current in 0_u32..60, load in 0.0_f64..500.0) {
        let current = current.clamp(spec.min_replicas, spec.max_replicas);
        let aim = aim(&spec, current, load);
        prop_assert!((spec.min_replicas..=spec.max_replicas).contains(&aim));
        let needed = load / spec.target_ongoing_requests;
        if needed <= f64::from(current) {
            prop_assert!(aim <= current);
            prop_assert!(f64::from(aim) + 1e-6 >= needed.min(f64::from(spec.max_replicas)));
        } else {
            prop_assert!(aim >= current);
        }
        if aim == 0 {
            prop_assert!(current <= 1);
        }
    }

    /// A load that stays comes to rest, where it is served as it should be, and stays there.
    #[test]
    fn a_constant_load_comes_to_rest(spec in specs(), start in 0_u32..60, load in 1_u64..300) {
        let (begin, mut resting) = (moment(), 0);
        let mut scaler = Autoscaler::new(&spec, start);
        let mut second = 0;
        while resting < 60 && second < 20_000 {
            let counted = Load { serving: scaler.number(), running: load, waiting: 0 };
            let moved = matches!(scaler.decide(&spec, counted, begin + SECOND * second), Decision::Move { .. });
            resting = if moved { 0 } else { resting + 1 };
            second += 1;
        }
        prop_assert!(resting >= 60, "it never rests");
        let needed = f64::from(u32::try_from(load).unwrap()) / spec.target_ongoing_requests;
        let best = upwards(needed).clamp(spec.min_replicas.max(1), spec.max_replicas);
        prop_assert_eq!(scaler.number(), best);
    }

    /// Whatever is counted, what is recorded stays small, and the mean is between the least and the most of it.
    #[test]
    fn the_record_is_bounded(counts in prop::collection::vec((0_u64..100, 0_u64..5_000), 1..200), look_back in 0_u64..60) {
        let mut record = Record::default();
        let mut now = moment();
        let look_back = SECOND * u32::try_from(look_back).unwrap();
        let most = counts.iter().map(|(count, _)| *count).max().unwrap_or(0);
        for (count, millis) in counts {
            record.take(count, now, look_back);
            now += Duration::from_millis(millis);
            let mean = record.mean(look_back, now);
            prop_assert!((-1e-6..=f64::from(u32::try_from(most).unwrap()) + 1e-6).contains(&mean), "{}", mean);
        }
        prop_assert!(record.points.len() <= 2 * POINTS as usize + 4);
    }
}
