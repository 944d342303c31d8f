//! Goal: `FORMAT.md` and the code say the same. Method: its tables are parsed and compared with
//! the fields that the code is made from, or that it is known to read in order.

use super::layout::Field;
use super::{catalog, log_block, map, node, record, region_table, superblock};

const FORMAT: &str = include_str!("../../FORMAT.md");

/// The rows of the table under `heading`.
fn documented(heading: &str) -> Vec<(usize, usize, String)> {
    let section = FORMAT
        .split("\n## ")
        .find(|section| section.lines().next() == Some(heading))
        .unwrap_or_else(|| panic!("FORMAT.md has no section {heading}"));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let offset = cells.get(1)?.parse().ok()?;
        Some((
            offset,
            cells[2].parse().unwrap(),
            cells[3].trim_matches('`').to_owned(),
        ))
    };
    section.lines().filter_map(row).collect()
}

fn spelt(fields: &[Field]) -> Vec<(usize, usize, String)> {
    let row = |field: &Field| (field.offset, field.size, field.name.to_owned());
    fields.iter().map(row).collect()
}

#[test]
fn the_tables_say_what_the_code_does_and_fields_tile_their_structures() {
    let structures: [(&str, &[Field], usize); 10] = [
        (
            "Superblock",
            superblock::FIELDS,
            superblock::SUPERBLOCK_BYTES,
        ),
        ("Log block", log_block::FIELDS, log_block::LOG_HEADER_BYTES),
        ("Batch", record::FIELDS, record::BATCH_HEADER_BYTES),
        (
            "Operation",
            record::operation::FIELDS,
            record::OPERATION_HEADER_BYTES,
        ),
        (
            "Map",
            map::FIELDS,
            crate::geometry::MAP_HEADER_BYTES as usize,
        ),
        (
            "Region table",
            region_table::FIELDS,
            crate::geometry::MAP_HEADER_BYTES as usize,
        ),
        ("Region row", region_table::row::FIELDS, 32),
        (
            "Catalog entry",
            catalog::FIELDS,
            catalog::CATALOG_HEADER_BYTES,
        ),
        ("Node header", node::FIELDS, node::HEADER_BYTES),
        ("Child record", node::child::FIELDS, node::CHILD_BYTES),
    ];
    for (heading, fields, bytes) in structures {
        assert_eq!(documented(heading), spelt(fields), "{heading}");
        let mut at = 0;
        for field in fields {
            assert_eq!(field.offset, at, "{heading}: {}", field.name);
            at += field.size;
        }
        assert_eq!(at, bytes, "{heading}");
    }
}

#[test]
fn tables_of_pointer_and_extent_tile_what_is_encoded() {
    for (heading, bytes) in [
        ("Pointer", super::pointer::POINTER_BYTES),
        ("Extent reference", super::extent::EXTENT_HEADER_BYTES),
    ] {
        let mut at = 0;
        for (offset, size, name) in documented(heading) {
            assert_eq!(offset, at, "{heading}: {name}");
            at += size;
        }
        assert_eq!(at, bytes, "{heading}");
    }
}

#[test]
fn numbers_in_the_text_are_those_of_the_code() {
    for number in [
        format!("Format version **{}**", superblock::VERSION),
        format!("(log_block_bytes - {})", log_block::LOG_HEADER_BYTES),
        format!("up to {} of", superblock::EARLIER_MAX),
    ] {
        assert!(FORMAT.contains(&number), "{number}");
    }
    let offsets = crate::geometry::SUPERBLOCK_OFFSETS;
    let [_, b, a, d] = offsets;
    assert!(FORMAT.contains(&format!("at 0 (A), {b} (B), {a} (A), {d} (B)")));
}
