// From PVH's entry (32 bits, no paging, ebx is the start information: Xen's "x86/HVM direct boot ABI") to Rust, and the second CPU from its startup message.
// Registers and modes: Intel SDM volume 3, 2.5, 4.5, 10.8.5 ("Initializing IA-32e Mode"), 9.4.4 ("MP Initialization Example").

.section .note.Xen, "a", @note
.balign 4
    .long 4, 4, 18                   // lengths of name and value, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

.section .bss.boot, "aw", @nobits
.balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pds:  .skip 4 * 4096

.section .head.text, "ax"
.code32
.global _start
_start:
    cld
    movl $__bss_start, %edi
    movl $__bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    rep stosb
    movl $boot_pdpt + 3, boot_pml4   // present, writable
    movl $boot_pds + 3, %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax                 // 4 GiB in pages of 2 MiB, identity; which is a device's memory firmware has said in the MTRRs
    movl $boot_pds, %edi
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                  // PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx           // EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax            // PG, PE
    movl %eax, %cr0
    lgdt gdtr
    ljmp $8, $start64

.code64
start64:
    call load_segments
    movq $__stack0_top, %rsp
    movl %ebx, %edi
    xorl %esi, %esi
    call rust_main
1:  jmp 1b

second64:
    call load_segments
    movq $__stack1_top, %rsp
    call rust_secondary
1:  jmp 1b

load_segments:                       // on whatever stack there is: its return address is taken first
    popq %rax
    movw $16, %cx
    movw %cx, %ds
    movw %cx, %es
    movw %cx, %ss
    jmpq *%rax

.balign 8
gdt:
    .quad 0, 0x00209a0000000000, 0x0000920000000000
gdtr:
    .word 23
    .long gdt

// Copied to 0x8000, where the startup message sends the second CPU in real mode; from there at once to 64 bits.
.code16
.global trampoline
trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x8000, %sp
    movl $0x20, %eax
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    lgdtl trampoline_gdtr - trampoline + 0x8000
    movl %cr0, %eax
    andl $0x9fffffff, %eax           // CD and NW are set by reset
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpl $8, $second64
trampoline_gdtr:
    .word 23
    .long gdt
.global trampoline_end
trampoline_end:

.code64
.macro exception number
    .balign 16
    .if (\number == 8) || ((\number >= 10) && (\number <= 14)) || (\number == 17) || (\number == 21)
    .else
    pushq $0                         // these have no error code
    .endif
    pushq $\number
    jmp fatal
.endm
.macro interrupt number
    .balign 16
    pushq $\number
    jmp common
.endm

.balign 16
.global exception_stubs
exception_stubs:
.irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    exception \number
.endr
.balign 16
.global interrupt_stubs
interrupt_stubs:                     // in the order of apic.rs
    interrupt 0x40
    interrupt 0x41
    interrupt 0xff

fatal:
    popq %rdi
    popq %rdx
    movq (%rsp), %rsi
    andq $-16, %rsp
    call rust_exception

common:                              // the handler is Rust: everything that a call may change is kept; this target has no vector registers
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq 72(%rsp), %rdi
    cld
    subq $8, %rsp
    call rust_interrupt
    addq $8, %rsp
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $8, %rsp
    iretq
