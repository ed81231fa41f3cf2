//! Packets of the gdb remote serial protocol ("Debugging with GDB", appendix E.1 "Overview").

/// What stands in front of the next packet, or the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Not enough bytes yet.
    Incomplete,
    /// A packet whose checksum is right, unescaped and expanded; so many bytes of the input are used up.
    Packet(Vec<u8>, usize),
    /// A packet whose checksum is wrong, or that is malformed inside.
    Damaged(usize),
}

/// `$payload#checksum`, with the four special characters escaped.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(payload.len() + 4);
    for &byte in payload {
        if matches!(byte, b'#' | b'$' | b'}' | b'*') {
            body.extend([b'}', byte ^ 0x20]);
        } else {
            body.push(byte);
        }
    }
    let mut out = vec![b'$'];
    let checksum = checksum(&body);
    out.append(&mut body);
    out.extend(format!("#{checksum:02x}").bytes());
    out
}

/// Looks for the first packet in `input`; acknowledgements before it are skipped.
pub(crate) fn parse(input: &[u8]) -> Parsed {
    let Some(start) = input.iter().position(|&byte| byte == b'$') else {
        return Parsed::Incomplete;
    };
    let Some(len) = input[start..].iter().position(|&byte| byte == b'#') else {
        return Parsed::Incomplete;
    };
    let hash = start + len;
    let Some(digits) = input.get(hash + 1..hash + 3) else {
        return Parsed::Incomplete;
    };
    let body = &input[start + 1..hash];
    let said = std::str::from_utf8(digits).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
    match (said == Some(checksum(body)), expand(body)) {
        (true, Some(payload)) => Parsed::Packet(payload, hash + 3),
        _ => Parsed::Damaged(hash + 3),
    }
}

fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// Undoes escapes (`}x`) and run lengths (`c*n`: `n - 29` more of `c`).
fn expand(body: &[u8]) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::with_capacity(body.len());
    let mut bytes = body.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'}' => out.push(bytes.next()? ^ 0x20),
            b'*' => {
                let times = bytes.next()?.checked_sub(29)?;
                let last = *out.last()?;
                out.extend(std::iter::repeat_n(last, usize::from(times)));
            }
            byte => out.push(byte),
        }
    }
    Some(out)
}

/// Bytes as hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits as bytes; `x` digits, which stand for "not available", read as zero.
pub(crate) fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'x' => Some(0),
        byte => char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()),
    };
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the manual's overview: `0* ` is `0000`, and `}` escapes.
    #[test]
    fn run_lengths_and_escapes_as_in_the_manual() {
        assert_eq!(expand(b"0* "), Some(b"0000".to_vec()));
        assert_eq!(expand(b"}\x03"), Some(b"#".to_vec()));
        assert_eq!(expand(b"*!"), None, "a run of nothing");
        assert_eq!(expand(b"a}"), None, "an escape of nothing");
    }

    #[test]
    fn a_packet_survives_framing_and_arrives_in_pieces() {
        let payload = b"m#$}*0".to_vec();
        let mut bytes = b"++".to_vec();
        bytes.extend(frame(&payload));
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Parsed::Incomplete, "{end} bytes");
        }
        assert_eq!(parse(&bytes), Parsed::Packet(payload, bytes.len()));
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        assert_eq!(parse(b"$OK#9a"), Parsed::Packet(b"OK".to_vec(), 6));
        assert_eq!(parse(b"$OK#9b"), Parsed::Damaged(6));
        assert_eq!(parse(b"$OK#zz"), Parsed::Damaged(6));
    }

    #[test]
    fn digits() {
        assert_eq!(from_hex(b"00ffx0"), Some(vec![0, 255, 0]));
        assert_eq!(from_hex(b"0"), None);
        assert_eq!(from_hex(b"zz"), None);
        assert_eq!(to_hex(&[0, 0xab]), "00ab");
    }
}
