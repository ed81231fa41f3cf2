//! Headers and structure blocks that are not what they should be.

use super::*;
use alloc::vec::Vec;

/// A root node with the property `a = <0x2a>`, laid out by hand.
fn minimal() -> Vec<u8> {
    let structure: [u32; 8] = [BEGIN_NODE, 0, PROP, 4, 0, 0x2a, END_NODE, END];
    let header: [u32; 10] = [MAGIC, 90, 56, 88, 40, 17, 16, 0, 2, 32];
    let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
    blob.extend([0; 16]);
    blob.extend(structure.iter().flat_map(|word| word.to_be_bytes()));
    blob.extend(b"a\0");
    blob
}

fn read(blob: &[u8]) -> Result<(), ReadError> {
    let flat = FlatTree::new(blob)?;
    flat.reservations()?;
    flat.tree().map(|_| ())
}

/// The minimal blob with the header or structure word at byte `at` replaced.
fn with(at: usize, word: u32) -> Result<(), ReadError> {
    let mut blob = minimal();
    blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
    read(&blob)
}

#[test]
fn the_minimal_tree_is_read() {
    let blob = minimal();
    let tree = FlatTree::new(&blob).and_then(|flat| flat.tree()).expect("well-formed");
    assert_eq!(tree.len(), 1);
    assert_eq!(tree.nodes().next().and_then(|root| root.cell("a")), Some(0x2a));
    let padded = [blob.as_slice(), &[0xff; 7]].concat();
    assert_eq!(read(&padded), Ok(()));
}

#[test]
fn every_prefix_is_refused() {
    let blob = minimal();
    for len in 0..blob.len() {
        let error = read(&blob[..len]).expect_err("cut off");
        match len {
            0..4 => assert_eq!(error, ReadError::NoHeader { len }),
            4..40 => assert!(matches!(error, ReadError::NoHeader { .. }), "{len}: {error}"),
            _ => assert_eq!(error, ReadError::BadTotalSize { total: 90, len }),
        }
    }
}

#[test]
fn headers_are_checked() {
    assert_eq!(with(0, 0xedfe_0dd0), Err(ReadError::BadMagic { magic: 0xedfe_0dd0 }));
    assert_eq!(with(4, 91), Err(ReadError::BadTotalSize { total: 91, len: 90 }));
    assert_eq!(with(4, 8), Err(ReadError::BadTotalSize { total: 8, len: 90 }));
    assert_eq!(with(20, 16), Err(ReadError::BadVersion { version: 16, compatible: 16 }));
    assert_eq!(with(24, 18), Err(ReadError::BadVersion { version: 17, compatible: 18 }));
    for (at, block, align) in
        [(8, Block::Structure, 4), (12, Block::Strings, 1), (16, Block::Reservations, 8)]
    {
        for offset in [0, 36, 91, u32::MAX] {
            assert_eq!(with(at, offset), Err(ReadError::BadBlock { block, offset }));
        }
        if align > 1 {
            assert_eq!(with(at, 58), Err(ReadError::BadBlock { block, offset: 58 }));
        }
    }
    // Lengths of the strings and structure blocks.
    assert_eq!(with(32, 3), Err(ReadError::BadBlock { block: Block::Strings, offset: 88 }));
    assert_eq!(with(36, 36), Err(ReadError::BadBlock { block: Block::Structure, offset: 56 }));
    assert_eq!(with(36, 28), Err(ReadError::Truncated { block: Block::Structure, offset: 84 }));
}

#[test]
fn reservations_must_end() {
    let mut blob = minimal();
    // From here on nothing is two zero words.
    blob[16..20].copy_from_slice(&48u32.to_be_bytes());
    let error = read(&blob).expect_err("no end");
    assert!(matches!(error, ReadError::Truncated { block: Block::Reservations, .. }), "{error}");
    blob[40..56].copy_from_slice(&[0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    blob[16..20].copy_from_slice(&40u32.to_be_bytes());
    assert!(read(&blob).is_err());
}

#[test]
fn tokens_and_names_are_checked() {
    assert_eq!(with(56, 7), Err(ReadError::BadToken { token: 7, offset: 56 }));
    // A NOP in place of the property: what was its length, 4, is another one, and its name, 0, no token.
    assert_eq!(with(64, NOP), Err(ReadError::BadToken { token: 0, offset: 72 }));
    assert_eq!(with(72, 2), Err(ReadError::BadNameOffset { name: 2, offset: 64 }));
    assert_eq!(with(72, u32::MAX), Err(ReadError::BadNameOffset { name: u32::MAX, offset: 64 }));
    for len in [24, 0xffff_fff0, u32::MAX] {
        let error = with(68, len).expect_err("beyond the block");
        assert!(matches!(error, ReadError::Truncated { block: Block::Structure, .. }), "{error}");
    }
    assert_eq!(
        with(80, END),
        Err(ReadError::Tree { error: TreeError::Unclosed { levels: 1 }, offset: 80 })
    );
    let mut blob = minimal();
    blob[88] = 0xff;
    assert_eq!(read(&blob), Err(ReadError::NotText { offset: 64 }));
    blob[88] = b'a';
    blob[89] = b'b';
    assert_eq!(read(&blob), Err(ReadError::BadNameOffset { name: 0, offset: 64 }));
}

#[test]
fn errors_say_where() {
    let error = with(56, 7).expect_err("token");
    assert_eq!(
        alloc::format!("{error}"),
        "not a usable flattened devicetree: unknown token 0x7 at 0x38"
    );
}
