//! The lock-free code of `router/` under every interleaving and reordering that loom explores.
//!
//! Nothing here is a copy: each module below compiles the shipped `wake.rs`, `keyframe_requests.rs`
//! and `ring.rs` by path, with another facade in the place of `router/sync.rs`. [`sound`] has
//! loom's atomics. The others leave out one step and must fail: a model that cannot fail proves
//! nothing. `rtrb` and `arc-swap` are not ours and stay as they are: a ring moves its items between
//! two steps of loom.
//!
//! Where the shipped code leaves an order to its caller, the broken twin calls it in the wrong
//! order.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "the shipped files are made for their own crate, and compiled once per facade"
)]

#[path = "loom/sound.rs"]
mod sound;
#[path = "loom/torn.rs"]
mod torn;
#[path = "loom/unfenced.rs"]
mod unfenced;

// Plain values that the shipped files use from other modules.
use weir_sfu::{ids, media, sdp, transport};

use loom::sync::atomic::Ordering;

#[test]
fn worker_that_falls_asleep_never_misses_a_push_and_its_wake() {
    sound::models::falling_asleep(sound::models::LastLook::AfterSayingSo);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fences_the_worker_sleeps_for_ever() {
    unfenced::models::falling_asleep(unfenced::models::LastLook::AfterSayingSo);
}

#[test]
#[should_panic(expected = "deadlock")]
fn worker_that_looks_before_it_sets_the_flag_sleeps_for_ever() {
    sound::models::falling_asleep(sound::models::LastLook::BeforeSayingSo);
}

#[test]
fn two_writers_wake_a_sleeping_worker_once() {
    sound::models::two_writers();
}

#[test]
#[should_panic(expected = "woken twice")]
fn with_a_torn_swap_two_writers_wake_the_worker_twice() {
    torn::models::two_writers();
}

#[test]
fn batch_in_the_rings_arrives_whole_with_one_wake() {
    sound::models::batch_in_the_rings(sound::models::Wake::AfterTheBatch);
}

#[test]
#[should_panic(expected = "woken twice")]
fn notify_per_item_costs_a_wake_per_item() {
    sound::models::batch_in_the_rings(sound::models::Wake::AfterEachItem);
}

#[test]
#[should_panic(expected = "deadlock")]
fn notify_before_the_batch_lets_the_reader_sleep() {
    sound::models::batch_in_the_rings(sound::models::Wake::BeforeTheBatch);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fences_a_reader_that_just_woke_misses_a_batch() {
    unfenced::models::falling_asleep_again();
}

#[test]
fn reader_that_just_woke_does_not_miss_the_next_batch() {
    sound::models::falling_asleep_again();
}

fn not_lost(taken: usize) {
    assert!(taken >= 1, "a request was lost");
}

fn not_doubled(taken: usize) {
    assert!(taken <= 1, "a request was taken twice");
}

#[test]
fn no_request_is_lost() {
    sound::models::requests(not_lost);
}

#[test]
#[should_panic(expected = "a request was lost")]
fn with_a_torn_swap_requests_are_lost() {
    torn::models::requests(not_lost);
}

#[test]
fn simultaneous_requests_are_all_kept() {
    sound::models::requests_at_once(not_lost);
}

#[test]
#[should_panic(expected = "a request was lost")]
fn with_a_torn_or_one_of_two_requests_is_lost() {
    torn::models::requests_at_once(not_lost);
}

#[test]
fn no_request_is_taken_twice() {
    sound::models::requests(not_doubled);
}

#[test]
#[should_panic(expected = "a request was taken twice")]
fn with_a_torn_or_a_request_is_taken_twice() {
    torn::models::requests(not_doubled);
}

/// A ring publishes what it carries with release and acquire.
#[test]
fn viewer_that_saw_the_result_of_its_request_can_request_again() {
    sound::models::requesting_again(Ordering::Release, Ordering::Acquire);
}

#[test]
#[should_panic(expected = "the second request was lost")]
fn without_memory_ordering_the_second_request_is_lost() {
    sound::models::requesting_again(Ordering::Relaxed, Ordering::Relaxed);
}
