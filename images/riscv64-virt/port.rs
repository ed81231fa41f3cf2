//! The serial port, through SBI's debug console.

pub fn put(text: &str) {
    for byte in text.bytes() {
        let _no_console_no_text = sbi_rt::console_write_byte(byte);
    }
}
