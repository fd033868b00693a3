//! Samples and what is said of them. Pure.
//! Never here: measuring.

use std::time::Duration;

/// Nearest rank: of `n` sorted samples, the one at `ceil(share * n)`. NaN of none.
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_sign_loss, reason = "a rank of a share between 0 and 1")]
    let rank = (share * float(sorted.len() as u64)).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

/// The middle one; of an even number, the mean of the middle two.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The largest; NaN of none.
pub fn largest(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::max)
}

/// All together; 0 of none, which the standard library's own sum gives a sign.
pub fn seconds(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64()
}

/// For ratios and rates: exact below 2^53.
#[allow(clippy::cast_precision_loss, reason = "nothing here counts to 2^53")]
pub fn float(number: u64) -> f64 {
    number as f64
}

/// In millions of bytes a second, as links and disks are sold.
pub fn megabytes_per_second(bytes: u64, time: Duration) -> f64 {
    float(bytes) / 1e6 / time.as_secs_f64()
}

/// In milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// In MiB.
pub fn mebibytes(bytes: u64) -> f64 {
    float(bytes) / float(1 << 20)
}
