//! Layers written by hand, so that they are the same bytes each time: tar archives, and gzip and zstd frames that hold
//! them uncompressed. Every decoder takes them, and no encoder's version matters.

use std::io::{self, Write};

/// Files of an archive: names and contents.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend(tar_header(name, content.len() as u64));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend([0; 1024]);
    archive
}

/// What comes before a file's content in an archive; after it come zeros up to a multiple of 512 bytes.
pub(crate) fn tar_header(name: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A gzip member of stored blocks.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let last = bytes.len().saturating_sub(1) / 0xffff;
    for (number, block) in bytes.chunks(0xffff).enumerate() {
        let length = u16::try_from(block.len()).unwrap();
        member.push(u8::from(number == last));
        member.extend(length.to_le_bytes());
        member.extend((!length).to_le_bytes());
        member.extend_from_slice(block);
    }
    member.extend(crc32(bytes).to_le_bytes());
    member.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    member
}

/// A zstd frame of raw blocks.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 128 * 1024;
    // One segment, its size in four bytes, no checksum.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    let last = bytes.len().saturating_sub(1) / BLOCK;
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        let header = (u32::try_from(block.len()).unwrap() << 3) | u32::from(number == last);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|index| {
        (0..8).fold(u32::try_from(index).unwrap(), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 }
        })
    });
    !bytes.iter().fold(!0, |sum, byte| table[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8))
}

/// Writes an archive with one file of `size` random bytes, a piece at a time.
pub(crate) fn write_large_tar(
    to: &mut impl Write,
    size: u64,
    mut random: impl FnMut(usize) -> bytes::Bytes,
) -> io::Result<()> {
    const PIECE: u64 = 4 << 20;
    assert!(size.is_multiple_of(PIECE), "whole pieces, and so whole sectors");
    to.write_all(&tar_header("large", size))?;
    for _ in 0..size / PIECE {
        to.write_all(&random(usize::try_from(PIECE).unwrap()))?;
    }
    to.write_all(&[0; 1024])
}
