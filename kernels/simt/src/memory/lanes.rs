//! Races between the lanes of one warp: nothing but `bar.warp.sync` (`__syncwarp`) and the block's
//! barriers order what two lanes do to shared memory, however together they seem to run.

use super::shared::Access;
use crate::fault::{FaultKind, RaceKind};

/// Bytes that share a mark: lanes write neighbouring halves. Single bytes are not watched.
const GRAIN: usize = 2;
/// Warps of a block.
const WARPS: usize = 32;
const NOBODY: u8 = 0xff;
/// Atomics may meet each other, plain accesses may not join them.
const BY_ATOMIC: u8 = 0xfe;

#[derive(Debug, Clone, Copy)]
struct Mark {
    /// When the warp was last in step; older marks count for nothing.
    epoch: u32,
    /// The instruction that wrote: its lanes may meet, one of them wins.
    step: u32,
    readers: u32,
    /// Whose lanes these are. Other warps' are the business of the races between warps.
    warp: u8,
    writer: u8,
}

const UNTOUCHED: Mark = Mark { epoch: 0, step: 0, readers: 0, warp: NOBODY, writer: NOBODY };

#[derive(Debug)]
pub struct LaneMarks {
    marks: Vec<Mark>,
    epochs: [u32; WARPS],
}

impl LaneMarks {
    pub fn new(bytes: usize) -> LaneMarks {
        LaneMarks { marks: vec![UNTOUCHED; bytes.div_ceil(GRAIN)], epochs: [1; WARPS] }
    }

    pub fn reset(&mut self) {
        self.marks.fill(UNTOUCHED);
        self.epochs = [1; WARPS];
    }

    pub fn sync(&mut self, warp: u8) {
        self.epochs[usize::from(warp) % WARPS] += 1;
    }

    pub fn sync_all(&mut self) {
        self.epochs.iter_mut().for_each(|epoch| *epoch += 1);
    }

    fn visit(
        &mut self,
        access: Access,
        range: std::ops::Range<usize>,
        check: impl Fn(&mut Mark) -> Result<(), RaceKind>,
    ) -> Result<(), FaultKind> {
        if range.len() < GRAIN {
            return Ok(());
        }
        let epoch = self.epochs[usize::from(access.warp) % WARPS];
        let first = range.start / GRAIN;
        for (index, mark) in self.marks[first..range.end.div_ceil(GRAIN)].iter_mut().enumerate() {
            if mark.epoch != epoch || mark.warp != access.warp {
                *mark = Mark { epoch, warp: access.warp, ..UNTOUCHED };
            }
            let offset = ((first + index) * GRAIN) as u32;
            check(mark).map_err(|kind| FaultKind::LaneRace { kind, offset })?;
        }
        Ok(())
    }

    pub fn read(&mut self, access: Access, range: std::ops::Range<usize>) -> Result<(), FaultKind> {
        self.visit(access, range, |mark| {
            let own = access.lane.is_some_and(|lane| lane == mark.writer);
            if mark.writer != NOBODY && !own {
                return Err(RaceKind::ReadAfterWrite);
            }
            // What all lanes read at once, all have read before any of them goes on.
            mark.readers |= access.lane.map_or(0, |lane| 1 << (lane & 31));
            Ok(())
        })
    }

    /// A write that was looked at when it began, and counts from now.
    pub fn finish_write(&mut self, access: Access, range: std::ops::Range<usize>) {
        let epoch = self.epochs[usize::from(access.warp) % WARPS];
        let writer = access.lane.unwrap_or(BY_ATOMIC);
        let mark = Mark { epoch, step: access.step, readers: 0, warp: access.warp, writer };
        self.marks[range.start / GRAIN..range.end.div_ceil(GRAIN)].fill(mark);
    }

    pub fn write(
        &mut self,
        access: Access,
        range: std::ops::Range<usize>,
        atomic: bool,
    ) -> Result<(), FaultKind> {
        let own = access.lane.map_or(u32::MAX, |lane| 1 << (lane & 31));
        let writer = if atomic { BY_ATOMIC } else { access.lane.unwrap_or(BY_ATOMIC) };
        self.visit(access, range, |mark| {
            if mark.readers & !own != 0 {
                return Err(RaceKind::WriteAfterRead);
            }
            if mark.writer != NOBODY && mark.writer != writer && mark.step != access.step {
                return Err(RaceKind::WriteAfterWrite);
            }
            (mark.writer, mark.step) = (writer, access.step);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(lane: u8, step: u32) -> Access {
        Access { warp: 3, lane: Some(lane), step }
    }

    #[test]
    fn lanes_meet_only_behind_a_sync_of_their_warp() {
        let mut marks = LaneMarks::new(16);
        marks.write(by(0, 1), 0..4, false).unwrap();
        assert!(marks.read(by(0, 2), 0..4).is_ok() && marks.read(by(1, 2), 4..8).is_ok());
        let race = FaultKind::LaneRace { kind: RaceKind::ReadAfterWrite, offset: 2 };
        assert_eq!(marks.read(by(1, 2), 2..4), Err(race));
        marks.sync(2);
        assert!(marks.read(by(1, 2), 0..4).is_err(), "the other warp's");
        marks.sync(3);
        assert!(marks.read(by(1, 3), 0..4).is_ok());
        assert!(marks.write(by(0, 4), 0..4, false).is_err(), "lane 1 may still read");
        marks.sync_all();
        assert!(marks.write(by(0, 4), 0..4, false).is_ok());
    }

    #[test]
    fn lanes_of_one_instruction_may_write_one_word() {
        let mut marks = LaneMarks::new(4);
        assert!((0..32).all(|lane| marks.write(by(lane, 1), 0..4, false).is_ok()));
        assert!(marks.write(by(0, 2), 0..4, false).is_err());
    }

    #[test]
    fn all_lanes_at_once_read_nothing_that_one_has_just_written() {
        let mut marks = LaneMarks::new(4);
        let all = Access { lane: None, ..by(0, 2) };
        assert!(marks.read(all, 0..4).is_ok() && marks.write(by(5, 3), 0..4, false).is_ok());
        assert!(marks.read(all, 0..4).is_err());
    }

    #[test]
    fn atomics_of_lanes_may_meet_each_other_alone() {
        let mut marks = LaneMarks::new(4);
        assert!(marks.write(by(0, 1), 0..4, true).is_ok());
        assert!(marks.write(by(1, 2), 0..4, true).is_ok());
        assert!(marks.read(by(1, 3), 0..4).is_err());
    }
}
