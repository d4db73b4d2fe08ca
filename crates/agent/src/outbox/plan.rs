//! What to write next, and making room for it.

use std::io;

use super::{
    Class, Disk, Outbox, cursor,
    format::{FILE_HEAD, encode},
    refused,
    segment::Segment,
    streams,
};

/// Most bytes of records in one plan, so that those who wait for it do not wait for long.
const BATCH: u64 = 128 << 10;
/// Segments kept to be looked at because they could not be read whole.
const KEPT_ASIDE: usize = 2;
/// What a file takes is a multiple of this.
const PAGE: u64 = 4096;

/// Bytes that a file of this length takes on disk.
pub(super) fn pages(len: u64) -> u64 {
    len.next_multiple_of(PAGE)
}

#[derive(Debug)]
enum Op {
    Append {
        name: String,
        offset: u64,
        bytes: Vec<u8>,
    },
    Streams {
        bytes: Vec<u8>,
    },
    /// The streams' file too, to see whether the disk can be written: a full one is none.
    Probe {
        bytes: Vec<u8>,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncNames,
}

/// What is to be written next.
#[derive(Debug, Default)]
pub struct Plan {
    ops: Vec<Op>,
    /// Files have come to be.
    names: bool,
    /// Bytes of records.
    bytes: u64,
    /// Bytes that all files take, as far as this is planned.
    used: u64,
}

impl Plan {
    /// Writes. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// The first thing that could not be done; nothing of the plan counts as written then.
    pub fn execute(&self, disk: &dyn Disk) -> io::Result<()> {
        for op in &self.ops {
            match op {
                Op::Append { name, offset, bytes } => disk.write_synced(name, *offset, bytes)?,
                Op::Streams { bytes } => streams::write(disk, bytes)?,
                Op::Probe { bytes } => disk.replace(streams::FILE, bytes)?,
                Op::Rename { from, to } => disk.rename(from, to)?,
                Op::Remove { name } => disk.remove(name)?,
                Op::SyncNames => disk.sync_names()?,
            }
        }
        if self.names { disk.sync_names() } else { Ok(()) }
    }

    /// The buffer for what is to stand at `offset` of this file.
    fn append(&mut self, name: String, offset: u64) -> &mut Vec<u8> {
        let joins = matches!(self.ops.last(), Some(Op::Append { name: last, offset: from, bytes })
            if *last == name && from + bytes.len() as u64 == offset);
        if !joins {
            self.ops.push(Op::Append { name, offset, bytes: Vec::new() });
        }
        match self.ops.last_mut() {
            Some(Op::Append { bytes, .. }) => bytes,
            _ => unreachable!("an append is the last operation"),
        }
    }
}

enum Room {
    Made,
    /// Only what is in this plan could go: once it is on disk.
    Later,
    /// All that is there is more important.
    None,
}

impl Outbox {
    /// What is to be written; none when nothing is, or while a plan is being executed.
    pub fn plan(&mut self) -> Option<Plan> {
        if self.executing || !self.is_open() || !self.is_measured() {
            return None;
        }
        let mut plan = Plan { used: self.used(), ..Plan::default() };
        self.plan_finished(&mut plan);
        self.plan_records(&mut plan);
        self.plan_refused(&mut plan);
        if plan.ops.is_empty() && self.degraded.is_some() {
            plan.ops.push(Op::Probe { bytes: self.streams.encode() });
        }
        if plan.ops.iter().any(|op| matches!(op, Op::Remove { .. } | Op::Rename { .. })) {
            // What is counted must be safe before what it was counted in is gone.
            if let Err(error) = self.try_note() {
                self.committed(plan, Err(error));
                return None;
            }
            plan.ops.insert(0, Op::Append { name: cursor::FILE.into(), offset: 0, bytes: Vec::new() });
        }
        self.executing = !plan.ops.is_empty();
        if self.executing && !self.names_safe {
            // A file that is gone by a removal that is not safe may come back with the power, and hide what is written
            // to another meanwhile.
            plan.ops.insert(0, Op::SyncNames);
        }
        if !self.executing {
            // What was dropped may be all that there is to write.
            self.note();
        }
        self.executing.then_some(plan)
    }

    /// Bytes that all files take, or may take without being asked for.
    pub(super) fn used(&self) -> u64 {
        let segments = self.logs.iter().flat_map(|log| &log.segments).map(|segment| segment.size);
        // Room for what will be set aside is kept free: no message is dropped for it.
        let refused = [self.refused.size, self.refused.old_size].map(|size| size.max(self.refused_size()));
        let aside = self.aside.iter().map(|(_, size)| *size);
        let files: u64 = segments.chain(refused).chain(aside).map(pages).sum();
        // The streams' file is there twice while it is replaced, and may grow by this plan; and the cursor.
        files + 2 * pages(self.streams.size()) + 2 * PAGE
    }

    fn plan_streams(&mut self, plan: &mut Plan) {
        plan.ops.push(Op::Streams { bytes: self.streams.encode() });
    }

    fn plan_finished(&mut self, plan: &mut Plan) {
        for class in Class::ALL {
            while let Some(segment) = self.logs[class as usize].pop_finished() {
                self.plan_removal(class, segment, plan);
            }
        }
    }

    fn plan_removal(&mut self, class: Class, segment: Segment, plan: &mut Plan) {
        if self.logs[class as usize].segments.is_empty() {
            // It was the one that knew the last numbers.
            self.plan_streams(plan);
        }
        let name = segment.name(class);
        let Some(why) = &segment.aside else {
            plan.used -= pages(segment.size);
            return plan.ops.push(Op::Remove { name });
        };
        let aside = format!("{name}.{why}");
        self.aside.push_back((aside.clone(), segment.size));
        plan.ops.push(Op::Rename { from: name, to: aside });
        if self.aside.len() > KEPT_ASIDE {
            self.plan_aside(plan);
        }
    }

    /// Removes the oldest of what was kept aside.
    fn plan_aside(&mut self, plan: &mut Plan) -> bool {
        let Some((name, size)) = self.aside.pop_front() else { return false };
        plan.used -= pages(size);
        plan.ops.push(Op::Remove { name });
        true
    }

    fn plan_records(&mut self, plan: &mut Plan) {
        let most = BATCH.min(self.cap / 8);
        for class in Class::ALL {
            loop {
                let log = &self.logs[class as usize];
                let Some(pending) = log.pending.get(log.planned) else { break };
                let size = pending.size() as u64;
                if plan.bytes > 0 && plan.bytes + size > most {
                    return;
                }
                match self.make_room(class, size, plan) {
                    Room::Made => self.plan_record(class, size, plan),
                    Room::Later => return,
                    Room::None => {
                        self.tell_full();
                        let log = &mut self.logs[class as usize];
                        log.drop_pending(log.planned);
                    }
                }
            }
        }
    }

    fn plan_record(&mut self, class: Class, size: u64, plan: &mut Plan) {
        plan.used += self.cost(class, size);
        plan.bytes += size;
        if !self.fits(class, size) {
            self.plan_streams(plan);
            plan.names = true;
            let log = &mut self.logs[class as usize];
            let salt = getrandom::u32().unwrap_or(log.generation as u32);
            let first = log.segments.back().map_or(log.next(), |segment| segment.planned);
            log.segments.push_back(Segment::new(log.generation, first, salt));
            log.generation += 1;
            log.growing = true;
        }
        let log = &mut self.logs[class as usize];
        let segment = log.segments.back_mut().expect("there is one that grows");
        let bytes = plan.append(segment.name(class), segment.size);
        if segment.size == 0 {
            bytes.extend(FILE_HEAD);
            segment.size = FILE_HEAD.len() as u64;
        }
        let pending = &log.pending[log.planned];
        encode(bytes, segment.salt, segment.planned, pending.seq, &pending.record);
        segment.size += size;
        segment.planned += 1;
        log.planned += 1;
        if pending.seq > 0 {
            self.streams.written(&pending.record.topic, pending.seq);
        }
    }

    /// The last segment of this class takes so many more bytes.
    fn fits(&self, class: Class, size: u64) -> bool {
        let log = &self.logs[class as usize];
        log.growing && log.segments.back().is_some_and(|segment| segment.size + size <= self.segment_size())
    }

    /// Bytes that a record of this size takes in addition.
    pub(super) fn cost(&self, class: Class, size: u64) -> u64 {
        let last = self.logs[class as usize].segments.back().filter(|_| self.fits(class, size));
        match last {
            Some(last) => pages(last.size + size) - pages(last.size),
            None => pages(FILE_HEAD.len() as u64 + size),
        }
    }

    /// Makes room: by what nobody needs, then by the least important, of that the oldest.
    fn make_room(&mut self, class: Class, size: u64, plan: &mut Plan) -> Room {
        while plan.used + self.cost(class, size) > self.cap {
            if self.plan_aside(plan) || self.plan_idle(plan) {
                continue;
            }
            let lower = Class::ALL.into_iter().rev().take_while(|lower| *lower >= class);
            let Some(victim) =
                lower.into_iter().find(|lower| !self.logs[*lower as usize].segments.is_empty())
            else {
                return Room::None;
            };
            let log = &mut self.logs[victim as usize];
            if log.segments.front().is_some_and(Segment::is_planned) {
                return Room::Later;
            }
            let Some(segment) = log.drop_oldest() else { return Room::None };
            self.tell_full();
            self.plan_removal(victim, segment, plan);
        }
        Room::Made
    }

    /// Removes a segment that could still grow, but holds nothing that waits.
    fn plan_idle(&mut self, plan: &mut Plan) -> bool {
        for class in Class::ALL {
            let log = &mut self.logs[class as usize];
            if log.waiting() == 0 && log.segments.iter().all(|segment| !segment.is_planned()) {
                log.growing = false;
                if let Some(segment) = log.pop_finished() {
                    self.plan_removal(class, segment, plan);
                    return true;
                }
            }
        }
        false
    }

    fn plan_refused(&mut self, plan: &mut Plan) {
        self.refused.purging = std::mem::take(&mut self.refused.purge);
        if self.refused.purging {
            (self.refused.size, self.refused.old_size) = (0, 0);
            let files = [refused::FILE, refused::OLD_FILE];
            plan.ops.extend(files.map(|name| Op::Remove { name: name.into() }));
        }
        let most = self.refused_size();
        for at in 0..self.refused.lines.len() {
            let line = self.refused.lines[at].text.as_bytes();
            let (len, size) = (line.len() as u64, self.refused.size);
            if size > 0 && size + len > most {
                plan.ops.push(Op::Rename { from: refused::FILE.into(), to: refused::OLD_FILE.into() });
                (self.refused.size, self.refused.old_size) = (0, size);
            }
            plan.names = true;
            plan.append(refused::FILE.into(), self.refused.size).extend(line);
            self.refused.size += len;
        }
        self.refused.planned = self.refused.lines.len();
    }
}
