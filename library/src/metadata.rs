//! The ABI side: from exported symbols to classes. Checks each table's first words and reads its metadata.

use decurion_abi::{ABI_MAJOR, ABI_MINOR, CLASS_SYMBOL_PREFIX, MAGIC, META_SYMBOL_PREFIX};

use crate::elf::{Datum, Image};
use crate::{ClassFacts, LibraryError, METADATA_MAX, METHODS_MAX, NAME_MAX};

/// Every class that the library exports, sorted by name.
pub(crate) fn classes(image: &Image<'_>) -> Result<Vec<ClassFacts>, LibraryError> {
    let tables = image.exported(CLASS_SYMBOL_PREFIX)?;
    if tables.is_empty() {
        return Err(LibraryError::NoClass);
    }
    let texts = image.exported(META_SYMBOL_PREFIX)?;
    let mut classes = tables.iter().map(|table| class(table, &texts)).collect::<Result<Vec<_>, _>>()?;
    classes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(classes)
}

fn class(table: &Datum<'_>, texts: &[Datum<'_>]) -> Result<ClassFacts, LibraryError> {
    let name = table.name;
    let bad = |why: String| LibraryError::BadMetadata { class: name.to_owned(), why };
    let (major, minor) = version(table)?;
    let text = texts
        .iter()
        .find(|text| text.name == name)
        .ok_or_else(|| bad(format!("no symbol {META_SYMBOL_PREFIX}{name} is exported")))?;
    // A C string has its end marked; Rust's has none.
    let text = text.bytes.strip_suffix(b"\0").unwrap_or(text.bytes);
    if text.len() > METADATA_MAX {
        return Err(bad(format!("it has {} bytes, and at most {METADATA_MAX} are read", text.len())));
    }
    let facts: ClassFacts = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    if facts.name != name {
        return Err(bad(format!("it is that of class '{}'", facts.name)));
    }
    if facts.abi != (major, minor) {
        return Err(bad(format!(
            "it says ABI {}.{}, and the table {major}.{minor}",
            facts.abi.0, facts.abi.1
        )));
    }
    if facts.methods.len() > METHODS_MAX {
        return Err(LibraryError::TooMany { what: "methods in one class", max: METHODS_MAX });
    }
    for method in &facts.methods {
        if method.name.is_empty() || method.name.len() > NAME_MAX {
            return Err(bad(format!("a method's name has {} bytes, not 1 to {NAME_MAX}", method.name.len())));
        }
    }
    Ok(facts)
}

/// Major and minor of a table, once it may be loaded at all.
fn version(table: &Datum<'_>) -> Result<(u16, u16), LibraryError> {
    let class = || table.name.to_owned();
    let bad = |why: &str| LibraryError::BadTable { class: class(), why: why.to_owned() };
    let Some((magic, rest)) = table.bytes.split_first_chunk::<8>() else {
        return Err(bad("it is too small"));
    };
    let Some(([major_low, major_high, minor_low, minor_high], _)) = rest.split_first_chunk::<4>() else {
        return Err(bad("it is too small"));
    };
    if u64::from_le_bytes(*magic) != MAGIC {
        return Err(bad("its first word is not the magic one"));
    }
    let major = u16::from_le_bytes([*major_low, *major_high]);
    let minor = u16::from_le_bytes([*minor_low, *minor_high]);
    if major != ABI_MAJOR {
        return Err(LibraryError::OtherMajor { class: class(), major, minor });
    }
    if minor > ABI_MINOR {
        return Err(LibraryError::NewerMinor { class: class(), major, minor });
    }
    if table.bytes.len() < size_of::<decurion_abi::Class>() {
        return Err(bad("it is too small"));
    }
    Ok((major, minor))
}
