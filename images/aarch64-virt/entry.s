// From reset to Rust: exception level 1, floating point on, an identity map with caches on, a stack, a zeroed .bss.
// Registers and fields: Arm DDI 0487, chapter D24 ("AArch64 System Register Descriptions"); descriptors: D8.3.

.section .head.text, "ax"
.global _start
_start:
    mov x19, x0                      // the devicetree, for a flat image; 0 for an ELF
    bl  cpu_setup
    ldr x0, =__stack0_top
    mov sp, x0
    ldr x0, =__bss_start
    ldr x1, =__bss_end
1:  cmp x0, x1
    b.hs 2f
    stp xzr, xzr, [x0], #16
    b   1b
2:  mov x0, x19
    mov x1, #0
    bl  rust_main
    b   .

.global secondary_start
secondary_start:
    bl  cpu_setup
    ldr x0, =__stack1_top
    mov sp, x0
    bl  rust_secondary
    b   .

cpu_setup:
    mov x0, #(3 << 20)
    msr cpacr_el1, x0                // FPEN: Rust code may use vector registers
    ldr x0, =vectors
    msr vbar_el1, x0
    mov x0, #0xff04                  // attribute 0 Device-nGnRE, attribute 1 normal write-back
    msr mair_el1, x0
    ldr x0, =0x200803519             // T0SZ 25, write-back inner shareable walks, EPD1, 40-bit addresses
    msr tcr_el1, x0
    ldr x0, =boot_l1
    msr ttbr0_el1, x0
    isb
    tlbi vmalle1
    dsb nsh
    isb
    mrs x0, sctlr_el1
    mov x1, #0x1005                  // I, C, M
    orr x0, x0, x1
    bic x0, x0, #2                   // A: unaligned accesses are fine
    msr sctlr_el1, x0
    isb
    ret

.pushsection .data.boot, "aw"
.balign 4096
boot_l1:                             // 1 GiB blocks, identity
    .quad 0x0060000000000401         // 0..1 GiB: device, execute never
    .quad 0x0000000040000705         // 1..2 GiB: RAM
    .fill 254, 8, 0
    .quad 0x0060004000000401         // 256..257 GiB: the configuration space of PCIe
    .fill 255, 8, 0
.popsection

.macro slot target
    .balign 128
    b   \target
.endm
.balign 2048
vectors:
    .rept 5
    slot fatal
    .endr
    slot irq                         // from the current exception level with its own stack
    .rept 10
    slot fatal
    .endr

fatal:
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    b   rust_exception

irq:                                 // the handler is Rust: everything that a call may change is kept
    sub sp, sp, #704
    stp x0, x1, [sp]
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x29, [sp, #144]
    mrs x0, fpsr
    stp x30, x0, [sp, #160]
    mrs x0, fpcr
    str x0, [sp, #176]
    add x2, sp, #192
    stp q0, q1, [x2, #0]
    stp q2, q3, [x2, #32]
    stp q4, q5, [x2, #64]
    stp q6, q7, [x2, #96]
    stp q8, q9, [x2, #128]
    stp q10, q11, [x2, #160]
    stp q12, q13, [x2, #192]
    stp q14, q15, [x2, #224]
    stp q16, q17, [x2, #256]
    stp q18, q19, [x2, #288]
    stp q20, q21, [x2, #320]
    stp q22, q23, [x2, #352]
    stp q24, q25, [x2, #384]
    stp q26, q27, [x2, #416]
    stp q28, q29, [x2, #448]
    stp q30, q31, [x2, #480]
    mov x0, #0
    bl  rust_interrupt
    add x2, sp, #192
    ldp q0, q1, [x2, #0]
    ldp q2, q3, [x2, #32]
    ldp q4, q5, [x2, #64]
    ldp q6, q7, [x2, #96]
    ldp q8, q9, [x2, #128]
    ldp q10, q11, [x2, #160]
    ldp q12, q13, [x2, #192]
    ldp q14, q15, [x2, #224]
    ldp q16, q17, [x2, #256]
    ldp q18, q19, [x2, #288]
    ldp q20, q21, [x2, #320]
    ldp q22, q23, [x2, #352]
    ldp q24, q25, [x2, #384]
    ldp q26, q27, [x2, #416]
    ldp q28, q29, [x2, #448]
    ldp q30, q31, [x2, #480]
    ldr x0, [sp, #176]
    msr fpcr, x0
    ldp x30, x0, [sp, #160]
    msr fpsr, x0
    ldp x0, x1, [sp]
    ldp x2, x3, [sp, #16]
    ldp x4, x5, [sp, #32]
    ldp x6, x7, [sp, #48]
    ldp x8, x9, [sp, #64]
    ldp x10, x11, [sp, #80]
    ldp x12, x13, [sp, #96]
    ldp x14, x15, [sp, #112]
    ldp x16, x17, [sp, #128]
    ldp x18, x29, [sp, #144]
    add sp, sp, #704
    eret
