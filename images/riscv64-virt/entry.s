// From SBI firmware to Rust: supervisor mode without paging, floating point on, a stack, a zeroed .bss. a0 is the hart's number, a1 the devicetree's address
// (RISC-V SBI specification, "Hart State Management", and the boot protocol of its implementations).

.option arch, +d                     // the assembler does not look at the target's features
.section .head.text, "ax"
.global _start
_start:
    mv   s0, a0
    mv   s1, a1
    li   tp, 0
    la   sp, __stack0_top
    call cpu_setup
    la   t0, __bss_start
    la   t1, __bss_end
1:  bgeu t0, t1, 2f
    sd   zero, 0(t0)
    addi t0, t0, 8
    j    1b
2:  mv   a0, s1
    mv   a1, s0
    call rust_main
3:  j    3b

.global secondary_start
secondary_start:
    li   tp, 1
    la   sp, __stack1_top
    call cpu_setup
    call rust_secondary
4:  j    4b

cpu_setup:
    csrw satp, zero                  // addresses are physical
    li   t0, 3 << 13                 // sstatus.FS: Rust code may use floating point
    csrs sstatus, t0
    la   t0, trap
    csrw stvec, t0
    ret

.balign 4
trap:                                // the handler is Rust: everything that a call may change is kept
    addi sp, sp, -304
    sd   ra, 0(sp)
    sd   t0, 8(sp)
    sd   t1, 16(sp)
    sd   t2, 24(sp)
    sd   t3, 32(sp)
    sd   t4, 40(sp)
    sd   t5, 48(sp)
    sd   t6, 56(sp)
    sd   a0, 64(sp)
    sd   a1, 72(sp)
    sd   a2, 80(sp)
    sd   a3, 88(sp)
    sd   a4, 96(sp)
    sd   a5, 104(sp)
    sd   a6, 112(sp)
    sd   a7, 120(sp)
    csrr t0, fcsr
    sd   t0, 128(sp)
    fsd  ft0, 136(sp)
    fsd  ft1, 144(sp)
    fsd  ft2, 152(sp)
    fsd  ft3, 160(sp)
    fsd  ft4, 168(sp)
    fsd  ft5, 176(sp)
    fsd  ft6, 184(sp)
    fsd  ft7, 192(sp)
    fsd  ft8, 200(sp)
    fsd  ft9, 208(sp)
    fsd  ft10, 216(sp)
    fsd  ft11, 224(sp)
    fsd  fa0, 232(sp)
    fsd  fa1, 240(sp)
    fsd  fa2, 248(sp)
    fsd  fa3, 256(sp)
    fsd  fa4, 264(sp)
    fsd  fa5, 272(sp)
    fsd  fa6, 280(sp)
    fsd  fa7, 288(sp)
    csrr a0, scause
    bgez a0, fatal                   // the highest bit says "interrupt"
    li   a0, 0
    call rust_interrupt
    ld   t0, 128(sp)
    csrw fcsr, t0
    fld  ft0, 136(sp)
    fld  ft1, 144(sp)
    fld  ft2, 152(sp)
    fld  ft3, 160(sp)
    fld  ft4, 168(sp)
    fld  ft5, 176(sp)
    fld  ft6, 184(sp)
    fld  ft7, 192(sp)
    fld  ft8, 200(sp)
    fld  ft9, 208(sp)
    fld  ft10, 216(sp)
    fld  ft11, 224(sp)
    fld  fa0, 232(sp)
    fld  fa1, 240(sp)
    fld  fa2, 248(sp)
    fld  fa3, 256(sp)
    fld  fa4, 264(sp)
    fld  fa5, 272(sp)
    fld  fa6, 280(sp)
    fld  fa7, 288(sp)
    ld   ra, 0(sp)
    ld   t0, 8(sp)
    ld   t1, 16(sp)
    ld   t2, 24(sp)
    ld   t3, 32(sp)
    ld   t4, 40(sp)
    ld   t5, 48(sp)
    ld   t6, 56(sp)
    ld   a0, 64(sp)
    ld   a1, 72(sp)
    ld   a2, 80(sp)
    ld   a3, 88(sp)
    ld   a4, 96(sp)
    ld   a5, 104(sp)
    ld   a6, 112(sp)
    ld   a7, 120(sp)
    addi sp, sp, 304
    sret

fatal:
    csrr a1, sepc
    csrr a2, stval
    call rust_exception
