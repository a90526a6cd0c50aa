use super::*;
use crate::{Hop, Route};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn device() -> ObjectId {
    ObjectId::Device("flannel.1".parse().unwrap())
}

/// The route to the `number`th network.
fn route(number: u16) -> ObjectId {
    let hop = Hop::via([192, 0, 2, 1].into(), "eth0".parse().unwrap());
    let net = format!("10.{}.{}.0/24", number >> 8, number & 255)
        .parse()
        .unwrap();
    crate::Object::from(Route::unicast(net, hop, 70)).id()
}

/// Repairs of `id` every `gap`, and how many of them have a line.
fn fight(contested: &mut Contested, id: ObjectId, times: u32, gap: Duration, now: &mut Instant) -> usize {
    let repairs = (0..times).map(|_| {
        *now += gap;
        contested.repaired(id, *now)
    });
    repairs.filter(|line| *line).count()
}

#[test]
fn five_repairs_within_10_s_are_a_fight_and_slower_ones_are_none() {
    for (gap, is_fight) in [(30, true), (2_400, true), (2_500, false), (60_000, false)] {
        let (mut contested, mut now) = (Contested::default(), Instant::now());
        assert_eq!(fight(&mut contested, device(), 4, ms(gap), &mut now), 4);
        assert_eq!(contested.judge(now), None);
        fight(&mut contested, device(), 1, ms(gap), &mut now);
        assert_eq!(contested.judge(now).is_some(), is_fight, "every {gap} ms");
    }
}

#[test]
fn different_objects_are_no_fight() {
    let (mut contested, now) = (Contested::default(), Instant::now());
    assert!((0..500).all(|number| contested.repaired(route(number), now)));
    assert_eq!(contested.judge(now), None);
}

#[test]
fn a_fight_has_five_lines_and_then_a_sum_every_30_s() {
    let (mut contested, mut now) = (Contested::default(), Instant::now());
    let (mut lines, mut sums) = (0, Vec::new());
    let start = now;
    while now < start + ms(100_000) {
        lines += fight(&mut contested, device(), 1, ms(100), &mut now);
        contested.judge(now);
        let told = contested.told.as_ref().map(|told| told.at);
        if told != sums.last().copied() {
            sums.extend(told);
        }
    }
    assert_eq!(lines, 5);
    let gaps: Vec<Duration> = sums.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [TELL_EVERY; 3]);
}

#[test]
fn it_is_over_when_nothing_had_to_be_put_right_for_a_minute() {
    let (mut contested, mut now) = (Contested::default(), Instant::now());
    assert_eq!(contested.calm_at(), None);
    fight(&mut contested, device(), 20, ms(30), &mut now);
    assert!(contested.judge(now).is_some());
    assert_eq!(contested.calm_at(), Some(now + ms(60_000)));
    assert!(contested.judge(now + ms(59_999)).is_some());
    // One more holds it up.
    now += ms(59_999);
    contested.repaired(device(), now);
    assert!(contested.judge(now + ms(59_999)).is_some());
    assert_eq!(contested.judge(now + ms(60_000)), None);
    assert_eq!(contested.calm_at(), None);
    assert!(
        contested.repaired(device(), now + ms(60_000)),
        "it has lines again"
    );
}

#[test]
fn the_reason_names_the_worst_and_how_often_and_stays_the_same_between_two_sums() {
    let (mut contested, mut now) = (Contested::default(), Instant::now());
    fight(&mut contested, route(1), 5, ms(30), &mut now);
    let text = contested.judge(now).unwrap();
    for part in [
        "10.0.1.0/24 was put right 5 times and more within 10 s,",
        "ip monitor",
        "udev",
        "--state-dir",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    fight(&mut contested, device(), 50, ms(30), &mut now);
    assert_eq!(
        contested.judge(now).as_ref(),
        Some(&text),
        "a change would be a line"
    );
    now += TELL_EVERY;
    let text = contested.judge(now).unwrap();
    let worst =
        "device flannel.1 was put right 5 times and more within 10 s, as was one other object of ours";
    assert!(text.starts_with(worst), "{text}");
    assert_eq!(contested.devices(), ["flannel.1".parse().unwrap()]);
}

#[test]
fn of_very_many_objects_so_many_are_counted_and_the_others_have_no_lines_in_a_fight() {
    let (mut contested, mut now) = (Contested::default(), Instant::now());
    fight(&mut contested, device(), 5, ms(30), &mut now);
    let lines = (0..5000).filter(|number| contested.repaired(route(*number), now));
    assert_eq!(lines.count(), COUNTED - 1);
    assert_eq!(contested.repaired.len(), COUNTED);
    // What is calm makes room.
    contested.forget(now + FIGHT_WITHIN);
    assert_eq!(contested.repaired.len(), 1);
}
