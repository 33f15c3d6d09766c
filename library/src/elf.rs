//! The ELF side: from bytes to exported symbols, needed libraries and version needs, by the road the loader takes
//! (program headers, then the dynamic section). Section headers are only checked to be there, since a file that was
//! cut off loses them first. Knows nothing of classes.

use object::LittleEndian as LE;
use object::elf;
use object::read::ReadRef;
use object::read::elf::{Dyn, FileHeader, GnuHashTable, HashTable, ProgramHeader, Sym};

use crate::{GlibcVersion, LibraryError};

type Header = elf::FileHeader64<LE>;
type Segment = elf::ProgramHeader64<LE>;

/// Bytes of an ELF header.
const HEADER_LEN: usize = size_of::<Header>();
/// Needed libraries, at most.
const NEEDED_MAX: usize = 1_000;
/// Version needs that are looked at; a hostile file can chain one to itself.
const VERSION_NEEDS_MAX: usize = 100_000;

/// A shared library whose headers hold together.
pub(crate) struct Image<'a> {
    bytes: &'a [u8],
    segments: &'a [Segment],
    dynamic: &'a [elf::Dyn64<LE>],
    strings: &'a [u8],
}

/// One exported datum.
pub(crate) struct Datum<'a> {
    /// What follows the prefix in its symbol's name.
    pub(crate) name: &'a str,
    /// Its initial bytes in the file.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Image<'a> {
    /// Checks what kind of file this is, and that it is whole.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, LibraryError> {
        let header = header(bytes)?;
        let segments = segments(header, bytes)?;
        let dynamic = segments
            .iter()
            .find_map(|segment| segment.dynamic(LE, bytes).transpose())
            .ok_or(LibraryError::NotShared { found: "statically linked".to_owned() })?
            .map_err(|_| damaged("its dynamic section lies outside"))?;
        let mut image = Self { bytes, segments, dynamic, strings: &[] };
        if image.value(elf::DT_FLAGS_1).is_some_and(|flags| flags & elf::DF_1_PIE.0 != 0) {
            return Err(LibraryError::NotShared { found: "an executable".to_owned() });
        }
        let start = image.value(elf::DT_STRTAB).ok_or(damaged("it has no dynamic strings"))?;
        let len = image.value(elf::DT_STRSZ).ok_or(damaged("it has no dynamic strings"))?;
        image.strings = image.at(start, len).ok_or(damaged("its dynamic strings lie outside"))?;
        Ok(image)
    }

    /// Data symbols that it exports and whose name starts with `prefix`.
    pub(crate) fn exported(&self, prefix: &str) -> Result<Vec<Datum<'a>>, LibraryError> {
        let mut found = Vec::new();
        for symbol in self.symbols()? {
            if symbol.is_undefined(LE) || symbol.is_local() {
                continue;
            }
            let Some(rest) =
                self.tail(symbol.st_name(LE)).and_then(|name| name.strip_prefix(prefix.as_bytes()))
            else {
                continue;
            };
            if found.len() == crate::CLASSES_MAX {
                return Err(LibraryError::TooMany { what: "classes", max: crate::CLASSES_MAX });
            }
            let name = text_to_nul(rest, crate::NAME_MAX).ok_or(damaged("a class's symbol is misnamed"))?;
            let bytes = self
                .at(symbol.st_value(LE), symbol.st_size(LE))
                .ok_or(damaged("a class's symbol points outside"))?;
            found.push(Datum { name, bytes });
        }
        Ok(found)
    }

    /// Names of the libraries it needs.
    pub(crate) fn needed(&self) -> Result<Vec<String>, LibraryError> {
        let mut names = Vec::new();
        for entry in self.entries(elf::DT_NEEDED) {
            if names.len() == NEEDED_MAX {
                return Err(LibraryError::TooMany { what: "needed libraries", max: NEEDED_MAX });
            }
            names.push(self.text(entry)?.to_owned());
        }
        Ok(names)
    }

    /// Folders of `DT_RUNPATH`, else of `DT_RPATH`.
    pub(crate) fn run_path(&self) -> Result<Vec<String>, LibraryError> {
        let Some(entry) = self.value(elf::DT_RUNPATH).or_else(|| self.value(elf::DT_RPATH)) else {
            return Ok(Vec::new());
        };
        Ok(self.text(entry)?.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned).collect())
    }

    /// The highest `GLIBC_x.y` among the versions it needs.
    pub(crate) fn glibc_needed(&self) -> Result<Option<GlibcVersion>, LibraryError> {
        let Some(address) = self.value(elf::DT_VERNEED) else {
            return Ok(None);
        };
        let data = self.from(address).ok_or(damaged("its version needs lie outside"))?;
        let malformed = |()| damaged("its version needs are malformed");
        let (mut highest, mut looked_at, mut file_at) = (None, 0, 0u64);
        loop {
            let file: &elf::Verneed<LE> = data.read_at(file_at).map_err(malformed)?;
            let mut version_at = file_at + u64::from(file.vn_aux.get(LE));
            for _ in 0..file.vn_cnt.get(LE) {
                looked_at += 1;
                if looked_at > VERSION_NEEDS_MAX {
                    return Err(damaged("its version needs have no end"));
                }
                let version: &elf::Vernaux<LE> = data.read_at(version_at).map_err(malformed)?;
                highest = highest.max(glibc_version(self.text(u64::from(version.vna_name.get(LE)))?));
                version_at += u64::from(version.vna_next.get(LE));
            }
            if file.vn_next.get(LE) == 0 {
                return Ok(highest);
            }
            looked_at += 1;
            file_at += u64::from(file.vn_next.get(LE));
        }
    }

    /// Bytes of the file that are loaded at `address`, at most to the end of their segment.
    fn from(&self, address: u64) -> Option<&'a [u8]> {
        self.segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD).find_map(|segment| {
            let skip = usize::try_from(address.checked_sub(segment.p_vaddr(LE))?).ok()?;
            segment.data(LE, self.bytes).ok()?.get(skip..).filter(|rest| !rest.is_empty())
        })
    }

    fn at(&self, address: u64, len: u64) -> Option<&'a [u8]> {
        self.from(address)?.get(..usize::try_from(len).ok()?)
    }

    fn entries(&self, tag: elf::DynamicTag) -> impl Iterator<Item = u64> {
        self.dynamic
            .iter()
            .take_while(|entry| entry.d_tag(LE) != elf::DT_NULL)
            .filter(move |entry| entry.d_tag(LE) == tag)
            .map(|entry| entry.d_val(LE))
    }

    fn value(&self, tag: elf::DynamicTag) -> Option<u64> {
        self.entries(tag).next()
    }

    /// What stands in the string table from an offset on, its end not looked for.
    fn tail(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings.get(usize::try_from(offset).ok()?..)
    }

    fn text(&self, offset: u64) -> Result<&'a str, LibraryError> {
        let offset = u32::try_from(offset).map_err(|_| damaged("a name lies outside its strings"))?;
        self.tail(offset).and_then(|tail| text_to_nul(tail, 4096)).ok_or(damaged("a name is not text"))
    }

    /// The dynamic symbols. Nothing states their number: it follows from whichever hash table there is.
    fn symbols(&self) -> Result<&'a [elf::Sym64<LE>], LibraryError> {
        let bad = || damaged("its hash table of symbols is malformed");
        let count = if let Some(address) = self.value(elf::DT_GNU_HASH) {
            let table =
                GnuHashTable::<Header>::parse(LE, self.from(address).ok_or_else(bad)?).map_err(|_| bad())?;
            table.symbol_table_length(LE).unwrap_or(0)
        } else if let Some(address) = self.value(elf::DT_HASH) {
            let table =
                HashTable::<Header>::parse(LE, self.from(address).ok_or_else(bad)?).map_err(|_| bad())?;
            table.symbol_table_length()
        } else {
            0
        };
        if count == 0 {
            return Ok(&[]);
        }
        let table = self.value(elf::DT_SYMTAB).and_then(|address| self.from(address));
        let count = usize::try_from(count).map_err(|_| bad())?;
        table.and_then(|table| table.read_slice_at(0, count).ok()).ok_or(damaged("its symbols lie outside"))
    }
}

/// The kind of file, from its first bytes.
fn header(bytes: &[u8]) -> Result<&Header, LibraryError> {
    if bytes.is_empty() {
        return Err(LibraryError::Empty);
    }
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(stranger(bytes));
    }
    if bytes.len() < HEADER_LEN {
        return Err(LibraryError::TooShort { len: bytes.len(), least: HEADER_LEN });
    }
    let header: &Header = bytes.read_at(0).map_err(|()| damaged("its header is malformed"))?;
    match header.e_ident.class {
        elf::ELFCLASS64 => {}
        elf::ELFCLASS32 => return Err(LibraryError::NotSixtyFour { found: "32-bit".to_owned() }),
        class => {
            return Err(LibraryError::NotSixtyFour { found: format!("of unknown ELF class {}", class.0) });
        }
    }
    if header.e_ident.data != elf::ELFDATA2LSB {
        return Err(LibraryError::NotLittleEndian);
    }
    let (host, host_name) = HOST;
    if header.e_machine(LE) != host {
        return Err(LibraryError::OtherArchitecture {
            found: machine_name(header.e_machine(LE)),
            host: host_name,
        });
    }
    match header.e_type(LE) {
        elf::ET_DYN => Ok(header),
        elf::ET_EXEC => Err(LibraryError::NotShared { found: "an executable".to_owned() }),
        elf::ET_REL => Err(LibraryError::NotShared { found: "an object file (.o)".to_owned() }),
        elf::ET_CORE => Err(LibraryError::NotShared { found: "a core dump".to_owned() }),
        other => Err(LibraryError::NotShared { found: format!("of unknown ELF type {}", other.0) }),
    }
}

/// The program headers, once every part that is announced is known to lie inside the file.
fn segments<'a>(header: &'a Header, bytes: &'a [u8]) -> Result<&'a [Segment], LibraryError> {
    let within = |what, start: u64, len: u64| match start.checked_add(len) {
        Some(end) if end <= bytes.len() as u64 => Ok(()),
        end => Err(LibraryError::Truncated { what, end: end.unwrap_or(u64::MAX), len: bytes.len() as u64 }),
    };
    let count = u64::from(header.e_phnum(LE));
    within("its program header table", header.e_phoff(LE), count * size_of::<Segment>() as u64)?;
    let count = u64::from(header.e_shnum(LE));
    within("its section header table", header.e_shoff(LE), count * u64::from(header.e_shentsize(LE)))?;
    let segments =
        header.program_headers(LE, bytes).map_err(|_| damaged("its program header table is malformed"))?;
    for segment in segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD) {
        let (start, len) = segment.file_range(LE);
        within("a loaded segment", start, len)?;
    }
    Ok(segments)
}

/// Names what is not ELF.
fn stranger(bytes: &[u8]) -> LibraryError {
    if bytes.starts_with(b"!<arch>\n") || bytes.starts_with(b"!<thin>\n") {
        return LibraryError::Archive;
    }
    let start = &bytes[..bytes.len().min(512)];
    let text = match std::str::from_utf8(start) {
        Ok(text) => Some(text),
        // A character may be cut in two where the sample ends.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&start[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    match text {
        Some(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            let line = text.trim_start().lines().next().unwrap_or_default();
            LibraryError::Text { beginning: line.chars().take(40).collect() }
        }
        _ => {
            let beginning: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            LibraryError::NotElf { beginning: beginning.join(" ") }
        }
    }
}

/// `GLIBC_2.34` gives 2.34. `GLIBC_ABI_DT_RELR` came with 2.36.
fn glibc_version(name: &str) -> Option<GlibcVersion> {
    match name.strip_prefix("GLIBC_")? {
        "ABI_DT_RELR" => Some(GlibcVersion { major: 2, minor: 36 }),
        version => GlibcVersion::parse(version),
    }
}

fn text_to_nul(bytes: &[u8], max: usize) -> Option<&str> {
    let bytes = &bytes[..bytes.len().min(max + 1)];
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

fn damaged(what: &'static str) -> LibraryError {
    LibraryError::Damaged { what }
}

/// Machine that this program was built for: what it can load.
pub(crate) const HOST: (elf::Machine, &str) = if cfg!(target_arch = "x86_64") {
    (elf::EM_X86_64, "x86_64")
} else if cfg!(target_arch = "aarch64") {
    (elf::EM_AARCH64, "aarch64")
} else if cfg!(target_arch = "riscv64") {
    (elf::EM_RISCV, "riscv64")
} else {
    (elf::EM_NONE, "an architecture that Decurion does not know")
};

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_386 => "i386".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        elf::EM_RISCV => "riscv".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_LOONGARCH => "loongarch".to_owned(),
        other => format!("ELF machine {}", other.0),
    }
}
