//! The plan of faults, which follows from the seed alone.

use std::time::Duration;

use crate::{
    random::Random,
    timeline::{NAMES, What},
};

/// The faults that do not change the rank of a key. Some are more likely than others.
pub const FAULTS: [What; 11] = [
    What::Kill,
    What::Kill,
    What::Term,
    What::Term,
    What::Drop,
    What::Drop,
    What::Pause,
    What::Fail,
    What::Remove,
    What::DrainUntil,
    What::Disable,
];

#[derive(Debug, Clone, Copy)]
pub enum Step {
    Backend { backend: usize, what: What, lasts: Duration },
    RestartGateway { kills: bool },
}

/// All steps with their times.
pub fn plan(
    random: &mut Random,
    length: Duration,
    faults: &[What],
    restarts_gateway: bool,
) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    let mut free = [Duration::ZERO; NAMES.len()];
    let mut next_restart = random.millis(600..1_200);
    let mut now = Duration::from_millis(200);
    // The last faults end before the run does.
    while now + Duration::from_millis(500) < length {
        if restarts_gateway && now >= next_restart {
            let kills = random.among(0..2) == 0;
            steps.push((now, Step::RestartGateway { kills }));
            next_restart = now + random.millis(1_000..2_000);
        }
        let what = random.one_of(faults);
        let backend = random.among(0..NAMES.len() as u64) as usize;
        let lasts = random.millis(20..350);
        if free[backend] <= now {
            steps.push((now, Step::Backend { backend, what, lasts }));
            free[backend] = now + lasts + random.millis(50..300);
        }
        now += random.millis(10..50);
    }
    steps
}
