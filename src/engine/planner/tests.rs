//! The planner in a small world, rule by rule.

mod world;

use proptest::prelude::*;

use self::world::{LOAD, STOP, World, model, need};
use super::*;
use crate::config::{EngineAddress, EngineTimeouts};
use crate::engine::need::AnswerLength;

#[test]
fn the_smallest_variant_that_fits_is_started() {
    for (prompt, variant) in [(100, 0), (8191, 0), (8192, 1), (32_000, 1), (130_000, 2)] {
        let mut world = World::new(&[&[8192, 32_768, 131_072]]);
        world.ask(1, 0, need(prompt));
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.started, [(0, variant)], "{prompt}");
        assert_eq!(world.waited[&1], LOAD);
    }
}

#[test]
fn a_larger_engine_that_runs_stays() {
    let mut world = World::new(&[&[8192, 32_768]]);
    world.ask(1, 0, need(20_000));
    world.run_for(Duration::from_secs(60));
    world.ask(2, 0, need(10));
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.started, [(0, 1)]);
    assert_eq!(world.waited[&2], Duration::ZERO);
}

#[test]
fn a_request_that_needs_more_is_switched_to_at_once() {
    let mut world = World::new(&[&[8192, 32_768]]);
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(2));
    world.ask(2, 0, need(20_000));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.started, [(0, 0), (0, 1)]);
    assert_eq!(world.waited[&2], STOP + LOAD);
}

#[test]
fn a_switch_waits_for_running_answers() {
    let mut world = World::new(&[&[8192, 32_768]]);
    world.answer_takes = Duration::from_secs(7);
    world.ask(1, 0, need(10));
    world.run_for(LOAD);
    world.ask(2, 0, need(20_000));
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.waited[&2], Duration::from_secs(7) + STOP + LOAD);
}

#[test]
fn what_no_variant_holds_is_refused_before_anything_starts() {
    let mut world = World::new(&[&[8192, 32_768]]);
    world.ask(1, 0, need(40_000));
    assert_eq!(world.refused[&1], Refusal::TooLarge { needed_tokens: 40_000, context_tokens: 32_768 });
    assert!(world.started.is_empty());
}

#[test]
fn a_variant_that_fails_is_replaced_by_a_larger_one_or_told() {
    let mut world = World::new(&[&[8192, 32_768]]);
    world.broken = vec![(0, 0)];
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.started, [(0, 0), (0, 1)]);
    assert!(world.waited.contains_key(&1));

    let mut world = World::new(&[&[8192]]);
    world.broken = vec![(0, 0)];
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(1));
    assert!(world.refused.is_empty(), "what failed once may have failed by chance");
    world.run_for(Duration::from_secs(1));
    let failure = Failure { told: "it broke".into(), ..Failure::default() };
    let told = Refusal::StartFailed { retry_after: Duration::from_secs(2), failure };
    assert_eq!((&world.refused[&1], world.started.len()), (&told, 2));
    // After its rest it is tried again, and rests longer then.
    world.run_for(Duration::from_secs(3));
    world.ask(2, 0, need(10));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.started.len(), 3);
    assert!(
        matches!(world.refused[&2], Refusal::StartFailed { retry_after, .. } if retry_after.as_secs() == 4)
    );
}

#[test]
fn whoever_waits_survives_a_load_that_failed_once() {
    let mut world = World::new(&[&[8192]]);
    world.broken = vec![(0, 0)];
    (1..=5).for_each(|ticket| world.ask(ticket, 0, need(10)));
    world.run_for(Duration::from_millis(500));
    world.broken.clear();
    world.run_for(Duration::from_secs(5));
    assert!(world.refused.is_empty() && world.finished.len() == 5, "{:?}", world.refused);
}

#[test]
fn a_helper_waits_for_nobody() {
    let mut world = World::new(&[&[8192], &[8192], &[512]]);
    world.planner.models[2].spec.is_secondary = true;
    world.answer_takes = Duration::from_secs(20);
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(3));
    world.ask(2, 1, need(10));
    world.ask(3, 2, need(10));
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.waited[&3], LOAD);
}

#[test]
fn an_engine_that_goes_for_another_model_is_not_started_in_its_own_place() {
    let settings = EngineSettings { max_unfairness: Duration::from_secs(3), ..EngineSettings::default() };
    let mut world = World::with(settings, &[&[8192], &[8192]]);
    world.answer_takes = Duration::from_secs(4);
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_millis(10));
    (2..=5).for_each(|ticket| world.ask(ticket, 0, need(10)));
    world.ask(6, 1, need(10));
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.started.get(..2), Some([(0, 0), (1, 0)].as_slice()), "{:?}", world.started);
    assert!(world.waited[&6] < Duration::from_secs(3 + 4 + 2), "{:?}", world.waited[&6]);
    assert_eq!(world.finished.len(), 6);
}

#[test]
fn what_has_no_room_beside_a_pinned_engine_is_as_good_as_not_there() {
    let settings = EngineSettings { memory_budget_mib: Some(100), ..EngineSettings::default() };
    let mut world = World::with(settings, &[&[512, 8192], &[512], &[512]]);
    for (model, variant, memory) in [(0, 0, 30), (0, 1, 60), (1, 0, 50)] {
        world.planner.models[model].spec.variants[variant].memory_mib = Some(memory);
    }
    world.planner.models[1].spec.is_pinned = true;
    world.ask(1, 1, need(10));
    world.run_for(Duration::from_secs(20));
    world.ask(2, 0, need(1000));
    assert_eq!(world.refused[&2], Refusal::TooLarge { needed_tokens: 1000, context_tokens: 512 });
    world.ask(3, 0, Need { answer: AnswerLength::Asked(5000), ..need(100) });
    // One that does not say what it takes has what is left.
    world.run_for(Duration::from_secs(20));
    world.ask(4, 2, need(10));
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.finished, [1, 3, 4]);
}

#[test]
fn another_time_to_wait_makes_no_other_engine() {
    let mut world = World::new(&[&[8192]]);
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(3));
    let mut changed = model(&[8192]);
    changed.variants[0].timeouts.idle = Duration::from_secs(7);
    world.planner.configure(EngineSettings::default(), vec![("m0".into(), changed)]);
    world.act();
    assert_eq!(world.planner.engines()[0].phase, Phase::Ready);
}

#[test]
fn an_idle_engine_stops() {
    let mut world = World::new(&[&[8192]]);
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(299));
    assert_eq!(world.planner.engines().len(), 1);
    world.run_for(Duration::from_secs(3));
    assert!(world.planner.engines().is_empty());
}

#[test]
fn a_queue_has_an_end_and_a_caller_may_leave_it() {
    let mut world = World::with(EngineSettings { queue_max: 2, ..EngineSettings::default() }, &[&[8192]]);
    for ticket in 1..=3 {
        world.ask(ticket, 0, need(10));
    }
    assert_eq!(world.refused[&3], Refusal::QueueFull);
    world.planner.leave(1, world.now);
    world.ask(4, 0, need(10));
    world.run_for(Duration::from_secs(5));
    assert!(!world.waited.contains_key(&1) && world.waited.contains_key(&4));
}

#[test]
fn requests_share_the_context_of_an_engine_only_while_it_holds_them() {
    let mut world = World::new(&[&[4096]]);
    world.slots = 4;
    world.answer_takes = Duration::from_secs(10);
    for ticket in 1..=4 {
        world.ask(ticket, 0, need(1500));
    }
    world.run_for(LOAD);
    assert_eq!(world.granted_to.len(), 2, "two of 1,500 fit into 4,096, a third does not");
    world.run_for(Duration::from_secs(11));
    assert_eq!(world.granted_to.len(), 4);
}

#[test]
fn another_model_takes_over_when_nobody_needs_the_first() {
    let mut world = World::new(&[&[8192], &[8192]]);
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(20));
    world.ask(2, 1, need(10));
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.waited[&2], STOP + LOAD);
}

#[test]
fn a_budget_lets_engines_run_beside_each_other() {
    let settings = EngineSettings { memory_budget_mib: Some(100), ..EngineSettings::default() };
    let mut world = World::with(settings, &[&[8192], &[8192], &[8192]]);
    for (model, memory) in [(0, 40), (1, 60), (2, 30)] {
        world.planner.models[model].spec.variants[0].memory_mib = Some(memory);
    }
    world.ask(1, 0, need(10));
    world.ask(2, 1, need(10));
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.planner.engines().len(), 2);
    // The first is idle for longer, and its 40 are enough.
    world.ask(3, 2, need(10));
    world.run_for(Duration::from_secs(20));
    let models: Vec<usize> = world.planner.engines().iter().map(|engine| engine.model).collect();
    assert_eq!(models, [1, 2]);
}

#[test]
fn two_callers_that_take_turns_do_not_make_it_thrash() {
    let mut world = World::new(&[&[8192], &[8192]]);
    world.answer_takes = Duration::from_millis(20);
    let mut next = 1;
    let mut asked: Vec<(TicketId, usize)> = Vec::new();
    for model in 0..2 {
        world.ask(next, model, need(10));
        asked.push((next, model));
        next += 1;
    }
    while world.finished.len() < 1000 {
        let limit = world.now + Duration::from_secs(120);
        assert!(world.step(limit));
        // Whoever has its answer asks again.
        let again: Vec<(TicketId, usize)> =
            asked.iter().copied().filter(|(ticket, _)| world.finished.contains(ticket)).collect();
        asked.retain(|asked| !again.contains(asked));
        for (_, model) in again {
            world.ask(next, model, need(10));
            asked.push((next, model));
            next += 1;
        }
    }
    assert!(world.refused.is_empty());
    let switches = world.started.len();
    assert!(switches * 5 < world.finished.len(), "{switches} starts for {} answers", world.finished.len());
    let longest = world.waited.values().max().unwrap();
    let bound = Duration::from_secs(30) + world.answer_takes + STOP + LOAD + GLANCE * 2;
    assert!(*longest <= bound, "{longest:?}");
}

#[test]
fn a_changed_configuration_ends_what_it_does_not_know_and_leaves_the_rest() {
    let mut world = World::with(
        EngineSettings { memory_budget_mib: Some(10), ..EngineSettings::default() },
        &[&[8192], &[4096], &[2048]],
    );
    world.planner.models.iter_mut().for_each(|model| model.spec.variants[0].memory_mib = Some(1));
    let specs: Vec<EngineModel> = world.planner.models.iter().map(|model| model.spec.clone()).collect();
    world.answer_takes = Duration::from_secs(5);
    for at in 0..3 {
        world.ask(at, usize::try_from(at).unwrap(), need(10));
    }
    world.run_for(LOAD);
    world.ask(3, 0, need(10));
    world.ask(4, 2, need(10));
    // In another order, the first as it was, the second with other arguments, the third not at all.
    let mut changed = specs[1].clone();
    changed.variants[0].args = vec!["-ngl".to_owned(), "9".to_owned()];
    let models = vec![("m1".into(), changed), ("m0".into(), specs[0].clone())];
    let effects = world.planner.configure(world.planner.settings.clone(), models);
    assert_eq!(effects, [Effect::Refuse { ticket: 4, why: Refusal::Gone }]);
    world.act();
    world.ask(5, 1, need(10));
    world.run_for(Duration::from_secs(60));

    // The first engine went on and served the next; the second ended after its answer, and another took its place.
    assert_eq!(world.granted_to[&3], world.granted_to[&0]);
    assert!(world.granted_to[&5] > world.granted_to[&2]);
    assert_eq!(world.waited[&5], LOAD, "there is room for both");
    assert_eq!(world.planner.engines().len(), 2);
}

#[test]
fn a_guess_refuses_nothing() {
    let mut world = World::new(&[&[8192, 32_768]]);
    world.ask(1, 0, Need { is_counted: false, ..need(40_000) });
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.started, [(0, 1)]);
    assert!(world.waited.contains_key(&1));
}

#[test]
fn a_budget_holds_beside_what_may_not_be_stopped() {
    let settings = EngineSettings { memory_budget_mib: Some(80), ..EngineSettings::default() };
    let mut world = World::with(settings, &[&[8192], &[8192], &[8192]]);
    for (model, memory) in [(0, 60), (1, 10), (2, 40)] {
        world.planner.models[model].spec.variants[0].memory_mib = Some(memory);
    }
    world.planner.models[0].spec.is_pinned = true;
    world.ask(1, 0, need(10));
    world.ask(2, 1, need(10));
    world.run_for(Duration::from_secs(20));
    world.ask(3, 2, need(10));
    world.run_for(Duration::from_secs(20));
    assert!(matches!(world.refused[&3], Refusal::StartFailed { .. }));
    assert_eq!(world.planner.engines().len(), 2, "nobody is stopped in vain");
}

#[test]
fn a_load_that_nobody_waits_for_makes_way() {
    let mut world = World::new(&[&[8192], &[8192]]);
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_millis(100));
    world.planner.leave(1, world.now);
    world.ask(2, 1, need(10));
    world.run_for(Duration::from_secs(20));
    assert!(world.waited[&2] < LOAD + STOP + GLANCE * 2, "{:?}", world.waited[&2]);
}

#[test]
fn an_answer_that_never_ends_does_not_hold_up_others_for_ever() {
    let mut world = World::new(&[&[8192], &[8192]]);
    world.answer_takes = Duration::from_secs(100_000);
    world.ask(1, 0, need(10));
    world.run_for(LOAD);
    world.allows_cuts = true;
    world.ask(2, 1, need(10));
    world.run_for(Duration::from_secs(1000));
    let bound = Duration::from_secs(30) + EngineTimeouts::default().drain + STOP + LOAD + GLANCE * 2;
    assert!(world.waited[&2] <= bound, "{:?}", world.waited[&2]);
}

#[test]
fn engines_at_one_address_take_turns_whatever_room_there_is() {
    let settings = EngineSettings { memory_budget_mib: Some(100), ..EngineSettings::default() };
    let mut world = World::with(settings, &[&[8192], &[8192]]);
    for model in &mut world.planner.models {
        model.spec.variants[0].memory_mib = Some(1);
        model.spec.variants[0].address = Some(EngineAddress { host: "127.0.0.1".to_owned(), port: 8081 });
    }
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(20));
    world.ask(2, 1, need(10));
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.waited[&2], STOP + LOAD);
    assert_eq!(world.planner.engines().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn everybody_is_answered_or_told_why_not(
        requests in prop::collection::vec((0_usize..3, 1_u64..40_000, 0_u64..3000, any::<bool>()), 1..60),
        slots in 1_usize..5,
        broken in prop::collection::vec((0_usize..3, 0_usize..2), 0..3),
    ) {
        let mut world = World::new(&[&[2048, 16_384], &[8192, 32_768], &[4096]]);
        world.slots = slots;
        world.broken = broken;
        let count = requests.len() as u64;
        for (ticket, (model, prompt, pause, leaves)) in (1..).zip(requests) {
            world.ask(ticket, model, need(prompt));
            world.run_for(Duration::from_millis(pause));
            if leaves && !world.waited.contains_key(&ticket) && !world.refused.contains_key(&ticket) {
                world.planner.leave(ticket, world.now);
                world.refused.insert(ticket, Refusal::Gone);
            }
        }
        world.run_for(Duration::from_secs(600));
        prop_assert_eq!((world.waited.len() + world.refused.len()) as u64, count);
        prop_assert!(world.planner.waiting.is_empty());
        // Nobody waits longer than is fair.
        let answers = world.answer_takes * u32::try_from(count).unwrap();
        let bound = Duration::from_secs(31) * 4 + answers;
        prop_assert!(world.waited.values().all(|waited| *waited <= bound), "{:?}", world.waited.values().max());
    }
}

/// Two models that are said to fit beside each other, and do not.
fn too_large_for_two() -> World {
    let settings = EngineSettings { memory_budget_mib: Some(100), ..EngineSettings::default() };
    let mut world = World::with(settings, &[&[8192], &[8192]]);
    world.planner.models.iter_mut().for_each(|model| model.spec.variants[0].memory_mib = Some(40));
    world.starved = true;
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_secs(30));
    world.ask(2, 1, need(10));
    world.run_for(Duration::from_secs(30));
    world
}

#[test]
fn an_engine_that_found_too_little_memory_is_tried_again_when_the_others_have_gone() {
    let mut world = too_large_for_two();
    assert_eq!(world.started, [(0, 0), (1, 0), (1, 0)]);
    assert!(world.refused.is_empty() && world.finished == [1, 2]);
    // It is known from then on.
    world.ask(3, 0, need(10));
    world.run_for(Duration::from_secs(30));
    world.ask(4, 1, need(10));
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.started.len(), 5, "{:?}", world.started);
    assert_eq!(world.finished, [1, 2, 3, 4]);
}

#[test]
fn the_engine_whose_end_costs_least_goes_first() {
    let settings = EngineSettings { memory_budget_mib: Some(100), ..EngineSettings::default() };
    let mut world = World::with(settings, &[&[8192], &[8192], &[8192], &[8192]]);
    for (model, memory) in [(0, 10), (1, 40), (2, 50), (3, 35)] {
        world.planner.models[model].spec.variants[0].memory_mib = Some(memory);
    }
    for (ticket, model) in [(1, 0), (2, 1), (3, 2)] {
        world.ask(ticket, model, need(10));
        world.run_for(Duration::from_secs(20));
    }
    // The first is idle for longest, but its end would not suffice.
    world.ask(4, 3, need(10));
    world.run_for(Duration::from_secs(20));
    let left: Vec<usize> = world.planner.engines().iter().map(|engine| engine.model).collect();
    assert_eq!(left, [0, 2, 3]);
}

#[test]
fn a_load_that_is_stopped_leaves_failures_remembered() {
    let mut world = World::new(&[&[8192]]);
    world.broken = vec![(0, 0)];
    world.ask(1, 0, need(10));
    world.run_for(Duration::from_millis(500));
    world.broken.clear();
    world.run_for(Duration::from_millis(800));
    world.planner.leave(1, world.now);
    world.planner.unload(0);
    world.act();
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.started.len(), 2);
    assert_eq!(world.planner.models[0].health[0].failures, 1);
}

#[test]
fn a_conversation_gets_a_variant_that_lasts() {
    let mut world = World::new(&[&[1000, 2000]]);
    world.ask(1, 0, Need { growth_tokens: 100, ..need(950) });
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.started, [(0, 1)]);
    let mut world = World::new(&[&[1000]]);
    world.ask(1, 0, Need { growth_tokens: 100, ..need(950) });
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.finished, [1]);
}
