//! The members of the archive, one after the other: names whole and sound, content only of plain files.

use std::io::Read;

use super::{
    Error, Result,
    inflate::Inflate,
    pax, place,
    read::Whole,
    tar::{self, BLOCK, Fault, Flag, Header},
};

/// The longest extended header, in bytes: a name, and what some tar has to say besides.
const MAX_EXTENDED: u64 = 64 << 10;
/// How many members there may be that are no files: folders, and extended headers for each file.
const MAX_OTHERS: u32 = 64 << 10;
/// The most zeroes behind the end, in bytes: tar fills up its last record.
const MAX_END: u64 = 1 << 20;

/// A plain file in the archive; its content comes next.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: String,
    pub(super) size: u64,
}

/// The archive as it is read.
pub(super) struct Members<R> {
    stream: Inflate<R>,
    /// What is left of the present member's content, in bytes.
    left: u64,
    /// What then fills up its last block, in bytes.
    padding: usize,
    /// How far we are, in bytes of the archive.
    at: u64,
    others: u32,
}

/// What extended headers have said of the next member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    any: bool,
}

impl<R: Read> Members<R> {
    pub(super) fn new(stream: Inflate<R>) -> Self {
        Self { stream, left: 0, padding: 0, at: 0, others: 0 }
    }

    /// The next plain file, whose content is to be read to its end; none at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        debug_assert_eq!((self.left, self.padding), (0, 0), "the content before was read");
        let mut extended = Extended::default();
        loop {
            let (mut block, at) = ([0; BLOCK], self.at);
            self.exactly(&mut block)?;
            if block == [0; BLOCK] {
                return if extended.any { Err(Error::Extended { at }) } else { Ok(None) };
            }
            let header = tar::parse(&block).map_err(|fault| match fault {
                Fault::Sum => Error::Header { at },
                Fault::Field(field) => Error::HeaderField { at, field },
            })?;
            if header.flag == Flag::File {
                return self.file(header, extended).map(Some);
            }
            self.others += 1;
            if self.others > MAX_OTHERS {
                return Err(Error::TooManyMembers);
            }
            self.other(&header, &mut extended, at)?;
        }
    }

    fn file(&mut self, header: Header, extended: Extended) -> Result<Member> {
        let path = name(extended.path.unwrap_or(header.name))?;
        if extended.sparse {
            return Err(Error::MemberKind { path, what: "a sparse file" });
        }
        if header.mode & 0o7000 != 0 {
            return Err(Error::MemberMode(path));
        }
        let size = extended.size.unwrap_or(header.size);
        self.expect(size);
        Ok(Member { path, size })
    }

    /// What is no file: it describes the next one, is a folder for some, or has no place here.
    fn other(&mut self, header: &Header, extended: &mut Extended, at: u64) -> Result<()> {
        match header.flag {
            Flag::GnuName => {
                let mut text = self.extension(header.size, at)?;
                text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
                extended.path = Some(text);
                extended.any = true;
            }
            Flag::Pax => {
                let fields = pax::parse(&self.extension(header.size, at)?).ok_or(Error::Extended { at })?;
                let Extended { path, size, sparse, any } = extended;
                *path = fields.path.or(path.take());
                *size = fields.size.or(*size);
                (*sparse, *any) = (*sparse || fields.sparse, true);
            }
            // Made by `git archive` and the like, to say what is true of all. Here the manifest says that.
            Flag::PaxGlobal => drop(self.extension(header.size, at)?),
            Flag::Folder => {
                let path = name(std::mem::take(extended).path.unwrap_or_else(|| header.name.clone()))?;
                if header.size != 0 {
                    return Err(Error::HeaderField { at, field: "size for a folder" });
                }
                folder(&path)?;
            }
            Flag::Other(what) => {
                let path =
                    String::from_utf8_lossy(extended.path.as_ref().unwrap_or(&header.name)).into_owned();
                return Err(Error::MemberKind { path, what });
            }
            Flag::File => {}
        }
        Ok(())
    }

    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(Error::Extended { at });
        }
        self.expect(size);
        self.all("an extended header")
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        self.padding = (BLOCK - over) % BLOCK;
    }

    /// The whole content, of what is known to be short.
    pub(super) fn all(&mut self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.left).unwrap_or(0)];
        self.exactly(&mut bytes)?;
        self.left = 0;
        self.pad(name)?;
        Ok(bytes)
    }

    /// Some of the content; none at its end, when what follows is the next member.
    pub(super) fn content(&mut self, out: &mut [u8], name: &str) -> Result<usize> {
        if self.left == 0 {
            self.pad(name)?;
            return Ok(0);
        }
        let room = usize::try_from(self.left).map_or(out.len(), |left| left.min(out.len()));
        let count = self.stream.read(&mut out[..room])?;
        if count == 0 {
            return Err(Error::Truncated);
        }
        self.left -= count as u64;
        self.at += count as u64;
        Ok(count)
    }

    fn pad(&mut self, name: &str) -> Result<()> {
        let mut block = [0; BLOCK];
        let padding = std::mem::take(&mut self.padding);
        self.exactly(&mut block[..padding])?;
        if block == [0; BLOCK] { Ok(()) } else { Err(Error::Padding(name.to_owned())) }
    }

    fn exactly(&mut self, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            let count = self.stream.read(out)?;
            if count == 0 {
                return Err(Error::Truncated);
            }
            self.at += count as u64;
            out = &mut out[count..];
        }
        Ok(())
    }

    /// After the last member: only zeroes, not too many, and then the end of the file.
    pub(super) fn finish(mut self) -> Result<Whole> {
        let (mut chunk, mut sum) = ([0; 4096], 0);
        loop {
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return self.stream.finish();
            }
            sum += count as u64;
            if sum > MAX_END || chunk[..count].iter().any(|byte| *byte != 0) {
                return Err(Error::AfterArchive);
            }
        }
    }
}

fn name(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let name = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Error::MemberName { name, why: "is no UTF-8" }
    })
}

/// A folder that tar packs with the files in it. The manifest knows none: they are made as its entries need them.
fn folder(path: &str) -> Result<()> {
    let plain = path.strip_suffix('/').unwrap_or(path);
    if plain == super::PAYLOAD.trim_end_matches('/') {
        return Ok(());
    }
    let refuse = |why| Error::MemberName { name: path.to_owned(), why };
    let below = plain.strip_prefix(super::PAYLOAD).ok_or_else(|| refuse("is a folder outside payload/"))?;
    place::fault(below).map_or(Ok(()), |why| Err(refuse(why)))
}
