//! Recovery points as commits record them, and what people attach to them (`docs/format-vault.md`, section 7).

use storepool::clock::Timestamp;
use storepool::id::PointId;
use storepool::wire::{WireError, WireReader, put_bytes};

use crate::vault::fields::{FieldWriter, Ordinals, read_fields, read_list, read_text, read_time};

/// A recovery point in the vault: enough to list it, and to know what must be kept for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointRecord {
    /// Its name, the same as in the pool.
    pub id: PointId,
    /// When its backup began.
    pub started: Timestamp,
    /// When it was complete.
    pub finished: Timestamp,
    /// The host it was made on.
    pub host: String,
    /// Its protection group.
    pub group: String,
    /// Its data source.
    pub source: String,
    /// Its workload.
    pub workload: String,
    /// How many files it holds.
    pub files: u64,
    /// Bytes of data in them.
    pub bytes: u64,
    /// Bytes that its sync added to the vault.
    pub bytes_stored: u64,
    /// How many problems it has.
    pub problems: u64,
    /// Retention leaves it alone until then.
    pub keep_until: Option<Timestamp>,
    /// Made because somebody asked, not by schedule.
    pub on_demand: bool,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// The ordinal of the object with its manifest.
    pub manifest: u64,
    /// The ordinals of all objects that it needs, the manifest included.
    pub needs: Ordinals,
}

impl PointRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = FieldWriter::default();
        fields.time(1, self.started);
        fields.time(2, self.finished);
        for (tag, text) in
            [(3, &self.host), (4, &self.group), (5, &self.source), (6, &self.workload)]
        {
            fields.bytes(tag, text.as_bytes());
        }
        for (tag, number) in
            [(7, self.files), (8, self.bytes), (9, self.bytes_stored), (10, self.problems)]
        {
            fields.varint(tag, number);
        }
        put_notes(&mut fields, self.keep_until, self.on_demand, &self.tags);
        fields.bytes(0x8001, self.id.as_bytes());
        fields.varint(0x8002, self.manifest);
        fields.field(0x8003, |out| self.needs.put(out));
        fields.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut point = Self {
            id: PointId([0; 32]),
            started: Timestamp(0),
            finished: Timestamp(0),
            host: String::new(),
            group: String::new(),
            source: String::new(),
            workload: String::new(),
            files: 0,
            bytes: 0,
            bytes_stored: 0,
            problems: 0,
            keep_until: None,
            on_demand: false,
            tags: Vec::new(),
            manifest: 0,
            needs: Ordinals::default(),
        };
        let mut present = 0;
        read_fields(bytes, |tag, value| {
            match tag {
                1 => point.started = read_time(value)?,
                2 => point.finished = read_time(value)?,
                3 => point.host = read_text(value)?,
                4 => point.group = read_text(value)?,
                5 => point.source = read_text(value)?,
                6 => point.workload = read_text(value)?,
                7 => point.files = value.varint()?,
                8 => point.bytes = value.varint()?,
                9 => point.bytes_stored = value.varint()?,
                10 => point.problems = value.varint()?,
                11 => point.keep_until = Some(read_time(value)?),
                12 => point.on_demand = value.byte()? == 1,
                13 => point.tags = read_tags(value)?,
                0x8001 => point.id = PointId(value.array()?),
                0x8002 => point.manifest = value.varint()?,
                0x8003 => point.needs = Ordinals::read(value)?,
                _ => return Ok(false),
            }
            present += u32::from(tag >= 0x8001);
            Ok(true)
        })?;
        if present != 3 {
            return Err(WireError("a point record is not complete"));
        }
        if !point.needs.contains(point.manifest) {
            return Err(WireError("a point does not need its own manifest"));
        }
        Ok(point)
    }
}

/// What people attached to a point, as it is to be from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointNotes {
    /// Which point.
    pub point: PointId,
    /// Retention leaves it alone until then.
    pub keep_until: Option<Timestamp>,
    /// Made because somebody asked, not by schedule.
    pub on_demand: bool,
    /// Its tags, sorted.
    pub tags: Vec<String>,
}

impl PointNotes {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.point.as_bytes());
        let mut fields = FieldWriter::default();
        put_notes(&mut fields, self.keep_until, self.on_demand, &self.tags);
        put_bytes(out, &fields.finish());
    }

    pub(super) fn read(reader: &mut WireReader<'_>) -> Result<Self, WireError> {
        let point = read_point_id(reader)?;
        let mut notes = Self { point, keep_until: None, on_demand: false, tags: Vec::new() };
        read_fields(reader.bytes()?, |tag, value| {
            match tag {
                11 => notes.keep_until = Some(read_time(value)?),
                12 => notes.on_demand = value.byte()? == 1,
                13 => notes.tags = read_tags(value)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(notes)
    }
}

fn put_notes(fields: &mut FieldWriter, until: Option<Timestamp>, on_demand: bool, tags: &[String]) {
    if let Some(until) = until {
        fields.time(11, until);
    }
    if on_demand {
        fields.bytes(12, &[1]);
    }
    fields.list(13, tags, |out, tag| put_bytes(out, tag.as_bytes()));
}

fn read_tags(reader: &mut WireReader<'_>) -> Result<Vec<String>, WireError> {
    read_list(reader, 1, |reader| {
        String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| WireError("a tag is not UTF-8"))
    })
}

pub(super) fn read_point_id(reader: &mut WireReader<'_>) -> Result<PointId, WireError> {
    Ok(PointId(reader.array()?))
}
