//! One time for one file, whoever tells it. A listing often tells it to the minute, or to the day, and in the time zone of its
//! server; the file's own answer tells it exactly. Programs that keep films by their times take another time for another
//! film, so the time that was shown first stays, as long as what is told later can be the same. Pure.
//! Never here: whether a file has changed. Its version tells that.

use std::time::SystemTime;

const SECOND: i128 = 1_000_000_000;
const MINUTE: i128 = 60 * SECOND;
const DAY: i128 = 24 * 60 * MINUTE;
/// Offsets of the world's time zones are multiples of this,
const ZONE_STEP: i128 = 15 * MINUTE;
/// and none is larger.
const ZONE_MAX: i128 = 14 * 60 * MINUTE;

/// The time to show for a file: as listed, unless the file's own answer is about another time. A listing comes first, so
/// its time was shown first.
pub(super) fn shown(listed: Option<SystemTime>, exact: Option<SystemTime>) -> Option<SystemTime> {
    match (listed, exact) {
        (Some(listed), Some(exact)) if !is_same_in_some_zone(listed, exact) => Some(exact),
        (listed, exact) => listed.or(exact),
    }
}

/// The earliest of a listing's times that is told more finely than to the day. Listings tell all times alike, or older ones
/// more coarsely: a later time that looks as if told to the day was midnight.
pub(super) fn finer_from(times: impl Iterator<Item = SystemTime>) -> Option<SystemTime> {
    times.filter(|time| grain(nanos(*time)) < DAY).min()
}

/// The time of an unchanged name that was listed as `old` before and is listed as `new` now, in a listing that is
/// [`finer_from`] a time on: a time that is rounded down never replaces the one it was rounded from.
pub(super) fn kept(
    old: Option<SystemTime>,
    new: Option<SystemTime>,
    finer_from: Option<SystemTime>,
) -> Option<SystemTime> {
    let (Some(old_time), Some(new_time)) = (old, new) else { return new };
    let (old_nanos, new_nanos) = (nanos(old_time), nanos(new_time));
    let is_finer = finer_from.is_some_and(|from| from <= new_time);
    let grain = grain(new_nanos).min(if is_finer { MINUTE } else { DAY });
    let is_rounded = grain >= MINUTE && (old_nanos - new_nanos).abs() < grain;
    if is_rounded { old } else { new }
}

/// Whether two times can be of one moment, each told as finely as it looks and, if not to the second, in any time zone.
pub(super) fn is_same_in_some_zone(one: SystemTime, other: SystemTime) -> bool {
    let (one, other) = (nanos(one), nanos(other));
    let grain = grain(one).max(grain(other));
    let apart = (one - other).abs();
    if apart < grain {
        return true;
    }
    let beyond = apart % ZONE_STEP;
    grain >= MINUTE && apart < ZONE_MAX + grain && (beyond < grain || ZONE_STEP - beyond < grain)
}

/// How finely a time is told, as far as it shows.
fn grain(nanos: i128) -> i128 {
    [DAY, MINUTE, SECOND].into_iter().find(|grain| nanos % grain == 0).unwrap_or(1)
}

fn nanos(time: SystemTime) -> i128 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_nanos().cast_signed(),
        Err(before) => -before.duration().as_nanos().cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// 2023-11-14 22:13:00, and so many seconds.
    fn at(seconds: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_699_999_980_i64.saturating_add(seconds).cast_unsigned())
    }

    const HOUR: i64 = 3_600;

    #[test]
    fn a_listed_minute_stays_when_the_exact_time_is_known() {
        for zone in [0, 9 * HOUR, -8 * HOUR, 14 * HOUR, 5 * HOUR + 45 * 60] {
            for second in [0, 1, 47, 59] {
                assert_eq!(shown(Some(at(zone)), Some(at(second))), Some(at(zone)), "{zone} {second}");
            }
        }
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_hours(19_675 * 24);
        assert_eq!(shown(Some(midnight), Some(at(47))), Some(midnight), "a day");
        assert_eq!(shown(None, Some(at(47))), Some(at(47)));
        assert_eq!(shown(Some(at(0)), None), Some(at(0)));
        let nanos = at(47) + Duration::from_millis(500);
        assert_eq!(shown(Some(nanos), Some(at(47))), Some(nanos), "a server that tells seconds only");
    }

    #[test]
    fn a_time_that_does_not_agree_gives_way_to_the_exact_one() {
        for (listed, exact) in [(0, 60), (0, 16 * HOUR), (0, 600), (7, 47), (7, 7 + HOUR), (1, 2)] {
            assert_eq!(shown(Some(at(listed)), Some(at(exact))), Some(at(exact)), "{listed} {exact}");
        }
    }

    #[test]
    fn a_minute_never_replaces_the_second_it_was_rounded_from() {
        let kept = |old, new| kept(Some(at(old)), Some(at(new)), None);
        assert_eq!(kept(47, 0), Some(at(47)));
        assert_eq!(kept(47, 60), Some(at(47)), "rounded up");
        assert_eq!(kept(0, 0), Some(at(0)));
        assert_eq!(kept(0, 47), Some(at(47)), "a finer one is news");
        assert_eq!(kept(47, 120), Some(at(120)));
        assert_eq!(kept(0, HOUR), Some(at(HOUR)), "listed anew, it is a change");
        assert_eq!(super::kept(None, Some(at(0)), None), Some(at(0)));
        assert_eq!(super::kept(Some(at(0)), None, None), None);
    }

    #[test]
    fn midnight_is_a_day_only_where_the_listing_tells_days() {
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_hours(19_675 * 24);
        let (old, day) = (Some(midnight + Duration::from_mins(5 * 60 + 7)), Duration::from_hours(24));
        let to_the_day = [midnight, midnight - day, midnight + day];
        assert_eq!(finer_from(to_the_day.into_iter()), None);
        assert_eq!(kept(old, Some(midnight), None), old, "all are told to the day");
        let aged = finer_from([midnight, midnight + day + Duration::from_mins(1)].into_iter());
        assert_eq!(kept(old, Some(midnight), aged), old, "older ones are");
        let exact = finer_from([midnight, midnight - day - Duration::from_mins(1), at(47)].into_iter());
        assert_eq!(kept(old, Some(midnight), exact), Some(midnight), "it was midnight");
    }
}
