from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Inventory(_message.Message):
    __slots__ = ("image_version", "descriptors_per_id", "root_ids", "namespaces_per_id", "root_cgroup_set", "security_module", "uptime_us", "pre_dump_mode", "network_lock_method", "run_id")
    IMAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_PER_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_IDS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_PER_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_CGROUP_SET_FIELD_NUMBER: _ClassVar[int]
    SECURITY_MODULE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_US_FIELD_NUMBER: _ClassVar[int]
    PRE_DUMP_MODE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LOCK_METHOD_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    image_version: int
    descriptors_per_id: bool
    root_ids: SharedIds
    namespaces_per_id: bool
    root_cgroup_set: int
    security_module: int
    uptime_us: int
    pre_dump_mode: int
    network_lock_method: int
    run_id: str
    def __init__(self, image_version: _Optional[int] = ..., descriptors_per_id: _Optional[bool] = ..., root_ids: _Optional[_Union[SharedIds, _Mapping]] = ..., namespaces_per_id: _Optional[bool] = ..., root_cgroup_set: _Optional[int] = ..., security_module: _Optional[int] = ..., uptime_us: _Optional[int] = ..., pre_dump_mode: _Optional[int] = ..., network_lock_method: _Optional[int] = ..., run_id: _Optional[str] = ...) -> None: ...

class TreeEntry(_message.Message):
    __slots__ = ("pid", "ppid", "process_group", "session", "tids")
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    PROCESS_GROUP_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TIDS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    ppid: int
    process_group: int
    session: int
    tids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pid: _Optional[int] = ..., ppid: _Optional[int] = ..., process_group: _Optional[int] = ..., session: _Optional[int] = ..., tids: _Optional[_Iterable[int]] = ...) -> None: ...

class SharedIds(_message.Message):
    __slots__ = ("memory", "descriptors", "directories", "dispositions", "pid_namespace", "net_namespace", "ipc_namespace", "uts_namespace", "mnt_namespace", "user_namespace", "cgroup_namespace", "time_namespace")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    DISPOSITIONS_FIELD_NUMBER: _ClassVar[int]
    PID_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NET_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IPC_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    UTS_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MNT_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    USER_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    CGROUP_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TIME_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    memory: int
    descriptors: int
    directories: int
    dispositions: int
    pid_namespace: int
    net_namespace: int
    ipc_namespace: int
    uts_namespace: int
    mnt_namespace: int
    user_namespace: int
    cgroup_namespace: int
    time_namespace: int
    def __init__(self, memory: _Optional[int] = ..., descriptors: _Optional[int] = ..., directories: _Optional[int] = ..., dispositions: _Optional[int] = ..., pid_namespace: _Optional[int] = ..., net_namespace: _Optional[int] = ..., ipc_namespace: _Optional[int] = ..., uts_namespace: _Optional[int] = ..., mnt_namespace: _Optional[int] = ..., user_namespace: _Optional[int] = ..., cgroup_namespace: _Optional[int] = ..., time_namespace: _Optional[int] = ...) -> None: ...

class Core(_message.Message):
    __slots__ = ("machine", "x86", "process", "ids", "thread")
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    X86_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    THREAD_FIELD_NUMBER: _ClassVar[int]
    machine: int
    x86: X86Thread
    process: ProcessCore
    ids: SharedIds
    thread: ThreadCore
    def __init__(self, machine: _Optional[int] = ..., x86: _Optional[_Union[X86Thread, _Mapping]] = ..., process: _Optional[_Union[ProcessCore, _Mapping]] = ..., ids: _Optional[_Union[SharedIds, _Mapping]] = ..., thread: _Optional[_Union[ThreadCore, _Mapping]] = ...) -> None: ...

class X86Thread(_message.Message):
    __slots__ = ("clear_child_tid_addr", "registers", "floating_point")
    CLEAR_CHILD_TID_ADDR_FIELD_NUMBER: _ClassVar[int]
    REGISTERS_FIELD_NUMBER: _ClassVar[int]
    FLOATING_POINT_FIELD_NUMBER: _ClassVar[int]
    clear_child_tid_addr: int
    registers: Registers
    floating_point: FloatingPoint
    def __init__(self, clear_child_tid_addr: _Optional[int] = ..., registers: _Optional[_Union[Registers, _Mapping]] = ..., floating_point: _Optional[_Union[FloatingPoint, _Mapping]] = ...) -> None: ...

class Registers(_message.Message):
    __slots__ = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs", "mode")
    R15_FIELD_NUMBER: _ClassVar[int]
    R14_FIELD_NUMBER: _ClassVar[int]
    R13_FIELD_NUMBER: _ClassVar[int]
    R12_FIELD_NUMBER: _ClassVar[int]
    RBP_FIELD_NUMBER: _ClassVar[int]
    RBX_FIELD_NUMBER: _ClassVar[int]
    R11_FIELD_NUMBER: _ClassVar[int]
    R10_FIELD_NUMBER: _ClassVar[int]
    R9_FIELD_NUMBER: _ClassVar[int]
    R8_FIELD_NUMBER: _ClassVar[int]
    RAX_FIELD_NUMBER: _ClassVar[int]
    RCX_FIELD_NUMBER: _ClassVar[int]
    RDX_FIELD_NUMBER: _ClassVar[int]
    RSI_FIELD_NUMBER: _ClassVar[int]
    RDI_FIELD_NUMBER: _ClassVar[int]
    ORIG_RAX_FIELD_NUMBER: _ClassVar[int]
    RIP_FIELD_NUMBER: _ClassVar[int]
    CS_FIELD_NUMBER: _ClassVar[int]
    EFLAGS_FIELD_NUMBER: _ClassVar[int]
    RSP_FIELD_NUMBER: _ClassVar[int]
    SS_FIELD_NUMBER: _ClassVar[int]
    FS_BASE_FIELD_NUMBER: _ClassVar[int]
    GS_BASE_FIELD_NUMBER: _ClassVar[int]
    DS_FIELD_NUMBER: _ClassVar[int]
    ES_FIELD_NUMBER: _ClassVar[int]
    FS_FIELD_NUMBER: _ClassVar[int]
    GS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int
    mode: int
    def __init__(self, r15: _Optional[int] = ..., r14: _Optional[int] = ..., r13: _Optional[int] = ..., r12: _Optional[int] = ..., rbp: _Optional[int] = ..., rbx: _Optional[int] = ..., r11: _Optional[int] = ..., r10: _Optional[int] = ..., r9: _Optional[int] = ..., r8: _Optional[int] = ..., rax: _Optional[int] = ..., rcx: _Optional[int] = ..., rdx: _Optional[int] = ..., rsi: _Optional[int] = ..., rdi: _Optional[int] = ..., orig_rax: _Optional[int] = ..., rip: _Optional[int] = ..., cs: _Optional[int] = ..., eflags: _Optional[int] = ..., rsp: _Optional[int] = ..., ss: _Optional[int] = ..., fs_base: _Optional[int] = ..., gs_base: _Optional[int] = ..., ds: _Optional[int] = ..., es: _Optional[int] = ..., fs: _Optional[int] = ..., gs: _Optional[int] = ..., mode: _Optional[int] = ...) -> None: ...

class FloatingPoint(_message.Message):
    __slots__ = ("cwd", "swd", "ftw", "fop", "rip", "rdp", "mxcsr", "mxcr_mask", "st_space", "xmm_space", "padding", "xsave")
    CWD_FIELD_NUMBER: _ClassVar[int]
    SWD_FIELD_NUMBER: _ClassVar[int]
    FTW_FIELD_NUMBER: _ClassVar[int]
    FOP_FIELD_NUMBER: _ClassVar[int]
    RIP_FIELD_NUMBER: _ClassVar[int]
    RDP_FIELD_NUMBER: _ClassVar[int]
    MXCSR_FIELD_NUMBER: _ClassVar[int]
    MXCR_MASK_FIELD_NUMBER: _ClassVar[int]
    ST_SPACE_FIELD_NUMBER: _ClassVar[int]
    XMM_SPACE_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    XSAVE_FIELD_NUMBER: _ClassVar[int]
    cwd: int
    swd: int
    ftw: int
    fop: int
    rip: int
    rdp: int
    mxcsr: int
    mxcr_mask: int
    st_space: _containers.RepeatedScalarFieldContainer[int]
    xmm_space: _containers.RepeatedScalarFieldContainer[int]
    padding: _containers.RepeatedScalarFieldContainer[int]
    xsave: ExtendedState
    def __init__(self, cwd: _Optional[int] = ..., swd: _Optional[int] = ..., ftw: _Optional[int] = ..., fop: _Optional[int] = ..., rip: _Optional[int] = ..., rdp: _Optional[int] = ..., mxcsr: _Optional[int] = ..., mxcr_mask: _Optional[int] = ..., st_space: _Optional[_Iterable[int]] = ..., xmm_space: _Optional[_Iterable[int]] = ..., padding: _Optional[_Iterable[int]] = ..., xsave: _Optional[_Union[ExtendedState, _Mapping]] = ...) -> None: ...

class ExtendedState(_message.Message):
    __slots__ = ("xstate_bv", "ymm_high", "bound_registers", "bound_config", "opmask", "zmm_high", "zmm_16", "pkru")
    XSTATE_BV_FIELD_NUMBER: _ClassVar[int]
    YMM_HIGH_FIELD_NUMBER: _ClassVar[int]
    BOUND_REGISTERS_FIELD_NUMBER: _ClassVar[int]
    BOUND_CONFIG_FIELD_NUMBER: _ClassVar[int]
    OPMASK_FIELD_NUMBER: _ClassVar[int]
    ZMM_HIGH_FIELD_NUMBER: _ClassVar[int]
    ZMM_16_FIELD_NUMBER: _ClassVar[int]
    PKRU_FIELD_NUMBER: _ClassVar[int]
    xstate_bv: int
    ymm_high: _containers.RepeatedScalarFieldContainer[int]
    bound_registers: _containers.RepeatedScalarFieldContainer[int]
    bound_config: _containers.RepeatedScalarFieldContainer[int]
    opmask: _containers.RepeatedScalarFieldContainer[int]
    zmm_high: _containers.RepeatedScalarFieldContainer[int]
    zmm_16: _containers.RepeatedScalarFieldContainer[int]
    pkru: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, xstate_bv: _Optional[int] = ..., ymm_high: _Optional[_Iterable[int]] = ..., bound_registers: _Optional[_Iterable[int]] = ..., bound_config: _Optional[_Iterable[int]] = ..., opmask: _Optional[_Iterable[int]] = ..., zmm_high: _Optional[_Iterable[int]] = ..., zmm_16: _Optional[_Iterable[int]] = ..., pkru: _Optional[_Iterable[int]] = ...) -> None: ...

class ProcessCore(_message.Message):
    __slots__ = ("state", "exit_code", "personality", "flags", "signal_mask", "name", "timers", "limits", "cgroup_set", "pending", "login_uid", "oom_score_adj", "dispositions", "child_subreaper")
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    PERSONALITY_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_MASK_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIMERS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CGROUP_SET_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    LOGIN_UID_FIELD_NUMBER: _ClassVar[int]
    OOM_SCORE_ADJ_FIELD_NUMBER: _ClassVar[int]
    DISPOSITIONS_FIELD_NUMBER: _ClassVar[int]
    CHILD_SUBREAPER_FIELD_NUMBER: _ClassVar[int]
    state: int
    exit_code: int
    personality: int
    flags: int
    signal_mask: int
    name: bytes
    timers: Timers
    limits: Limits
    cgroup_set: int
    pending: SignalQueue
    login_uid: int
    oom_score_adj: int
    dispositions: _containers.RepeatedCompositeFieldContainer[Disposition]
    child_subreaper: bool
    def __init__(self, state: _Optional[int] = ..., exit_code: _Optional[int] = ..., personality: _Optional[int] = ..., flags: _Optional[int] = ..., signal_mask: _Optional[int] = ..., name: _Optional[bytes] = ..., timers: _Optional[_Union[Timers, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., cgroup_set: _Optional[int] = ..., pending: _Optional[_Union[SignalQueue, _Mapping]] = ..., login_uid: _Optional[int] = ..., oom_score_adj: _Optional[int] = ..., dispositions: _Optional[_Iterable[_Union[Disposition, _Mapping]]] = ..., child_subreaper: _Optional[bool] = ...) -> None: ...

class ThreadCore(_message.Message):
    __slots__ = ("robust_list_addr", "robust_list_bytes", "nice", "policy", "priority", "signal_mask", "signal_stack", "parent_death_signal", "pending", "credentials", "seccomp_mode", "seccomp_filter", "name", "rseq")
    ROBUST_LIST_ADDR_FIELD_NUMBER: _ClassVar[int]
    ROBUST_LIST_BYTES_FIELD_NUMBER: _ClassVar[int]
    NICE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_MASK_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_STACK_FIELD_NUMBER: _ClassVar[int]
    PARENT_DEATH_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_MODE_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FILTER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RSEQ_FIELD_NUMBER: _ClassVar[int]
    robust_list_addr: int
    robust_list_bytes: int
    nice: int
    policy: int
    priority: int
    signal_mask: int
    signal_stack: SignalStack
    parent_death_signal: int
    pending: SignalQueue
    credentials: Credentials
    seccomp_mode: int
    seccomp_filter: int
    name: bytes
    rseq: Rseq
    def __init__(self, robust_list_addr: _Optional[int] = ..., robust_list_bytes: _Optional[int] = ..., nice: _Optional[int] = ..., policy: _Optional[int] = ..., priority: _Optional[int] = ..., signal_mask: _Optional[int] = ..., signal_stack: _Optional[_Union[SignalStack, _Mapping]] = ..., parent_death_signal: _Optional[int] = ..., pending: _Optional[_Union[SignalQueue, _Mapping]] = ..., credentials: _Optional[_Union[Credentials, _Mapping]] = ..., seccomp_mode: _Optional[int] = ..., seccomp_filter: _Optional[int] = ..., name: _Optional[bytes] = ..., rseq: _Optional[_Union[Rseq, _Mapping]] = ...) -> None: ...

class SignalStack(_message.Message):
    __slots__ = ("addr", "size_bytes", "flags")
    ADDR_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    addr: int
    size_bytes: int
    flags: int
    def __init__(self, addr: _Optional[int] = ..., size_bytes: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class Rseq(_message.Message):
    __slots__ = ("addr", "size_bytes", "signature", "section_addr")
    ADDR_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SECTION_ADDR_FIELD_NUMBER: _ClassVar[int]
    addr: int
    size_bytes: int
    signature: int
    section_addr: int
    def __init__(self, addr: _Optional[int] = ..., size_bytes: _Optional[int] = ..., signature: _Optional[int] = ..., section_addr: _Optional[int] = ...) -> None: ...

class Credentials(_message.Message):
    __slots__ = ("uid", "gid", "effective_uid", "effective_gid", "saved_uid", "saved_gid", "filesystem_uid", "filesystem_gid", "cap_inheritable", "cap_permitted", "cap_effective", "cap_bounding", "securebits", "groups")
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_UID_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_GID_FIELD_NUMBER: _ClassVar[int]
    SAVED_UID_FIELD_NUMBER: _ClassVar[int]
    SAVED_GID_FIELD_NUMBER: _ClassVar[int]
    FILESYSTEM_UID_FIELD_NUMBER: _ClassVar[int]
    FILESYSTEM_GID_FIELD_NUMBER: _ClassVar[int]
    CAP_INHERITABLE_FIELD_NUMBER: _ClassVar[int]
    CAP_PERMITTED_FIELD_NUMBER: _ClassVar[int]
    CAP_EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    CAP_BOUNDING_FIELD_NUMBER: _ClassVar[int]
    SECUREBITS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    uid: int
    gid: int
    effective_uid: int
    effective_gid: int
    saved_uid: int
    saved_gid: int
    filesystem_uid: int
    filesystem_gid: int
    cap_inheritable: _containers.RepeatedScalarFieldContainer[int]
    cap_permitted: _containers.RepeatedScalarFieldContainer[int]
    cap_effective: _containers.RepeatedScalarFieldContainer[int]
    cap_bounding: _containers.RepeatedScalarFieldContainer[int]
    securebits: int
    groups: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, uid: _Optional[int] = ..., gid: _Optional[int] = ..., effective_uid: _Optional[int] = ..., effective_gid: _Optional[int] = ..., saved_uid: _Optional[int] = ..., saved_gid: _Optional[int] = ..., filesystem_uid: _Optional[int] = ..., filesystem_gid: _Optional[int] = ..., cap_inheritable: _Optional[_Iterable[int]] = ..., cap_permitted: _Optional[_Iterable[int]] = ..., cap_effective: _Optional[_Iterable[int]] = ..., cap_bounding: _Optional[_Iterable[int]] = ..., securebits: _Optional[int] = ..., groups: _Optional[_Iterable[int]] = ...) -> None: ...

class Disposition(_message.Message):
    __slots__ = ("handler_addr", "flags", "restorer_addr", "mask")
    HANDLER_ADDR_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    RESTORER_ADDR_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    handler_addr: int
    flags: int
    restorer_addr: int
    mask: int
    def __init__(self, handler_addr: _Optional[int] = ..., flags: _Optional[int] = ..., restorer_addr: _Optional[int] = ..., mask: _Optional[int] = ...) -> None: ...

class PendingSignal(_message.Message):
    __slots__ = ("siginfo",)
    SIGINFO_FIELD_NUMBER: _ClassVar[int]
    siginfo: bytes
    def __init__(self, siginfo: _Optional[bytes] = ...) -> None: ...

class SignalQueue(_message.Message):
    __slots__ = ("signals",)
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    signals: _containers.RepeatedCompositeFieldContainer[PendingSignal]
    def __init__(self, signals: _Optional[_Iterable[_Union[PendingSignal, _Mapping]]] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("soft", "hard")
    SOFT_FIELD_NUMBER: _ClassVar[int]
    HARD_FIELD_NUMBER: _ClassVar[int]
    soft: int
    hard: int
    def __init__(self, soft: _Optional[int] = ..., hard: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    def __init__(self, limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ...) -> None: ...

class IntervalTimer(_message.Message):
    __slots__ = ("interval_s", "interval_us", "remaining_s", "remaining_us")
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_US_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    REMAINING_US_FIELD_NUMBER: _ClassVar[int]
    interval_s: int
    interval_us: int
    remaining_s: int
    remaining_us: int
    def __init__(self, interval_s: _Optional[int] = ..., interval_us: _Optional[int] = ..., remaining_s: _Optional[int] = ..., remaining_us: _Optional[int] = ...) -> None: ...

class PosixTimer(_message.Message):
    __slots__ = ("id", "clock", "signal", "notify", "value", "overruns", "interval_s", "interval_ns", "remaining_s", "remaining_ns", "tid")
    ID_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OVERRUNS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_NS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    REMAINING_NS_FIELD_NUMBER: _ClassVar[int]
    TID_FIELD_NUMBER: _ClassVar[int]
    id: int
    clock: int
    signal: int
    notify: int
    value: int
    overruns: int
    interval_s: int
    interval_ns: int
    remaining_s: int
    remaining_ns: int
    tid: int
    def __init__(self, id: _Optional[int] = ..., clock: _Optional[int] = ..., signal: _Optional[int] = ..., notify: _Optional[int] = ..., value: _Optional[int] = ..., overruns: _Optional[int] = ..., interval_s: _Optional[int] = ..., interval_ns: _Optional[int] = ..., remaining_s: _Optional[int] = ..., remaining_ns: _Optional[int] = ..., tid: _Optional[int] = ...) -> None: ...

class Timers(_message.Message):
    __slots__ = ("real", "virtual", "profiling", "posix")
    REAL_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_FIELD_NUMBER: _ClassVar[int]
    PROFILING_FIELD_NUMBER: _ClassVar[int]
    POSIX_FIELD_NUMBER: _ClassVar[int]
    real: IntervalTimer
    virtual: IntervalTimer
    profiling: IntervalTimer
    posix: _containers.RepeatedCompositeFieldContainer[PosixTimer]
    def __init__(self, real: _Optional[_Union[IntervalTimer, _Mapping]] = ..., virtual: _Optional[_Union[IntervalTimer, _Mapping]] = ..., profiling: _Optional[_Union[IntervalTimer, _Mapping]] = ..., posix: _Optional[_Iterable[_Union[PosixTimer, _Mapping]]] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("start_code_addr", "end_code_addr", "start_data_addr", "end_data_addr", "start_stack_addr", "start_brk_addr", "brk_addr", "arg_start_addr", "arg_end_addr", "env_start_addr", "env_end_addr", "exe_file", "auxv", "vmas", "dumpable", "aio_rings", "thp_disabled")
    START_CODE_ADDR_FIELD_NUMBER: _ClassVar[int]
    END_CODE_ADDR_FIELD_NUMBER: _ClassVar[int]
    START_DATA_ADDR_FIELD_NUMBER: _ClassVar[int]
    END_DATA_ADDR_FIELD_NUMBER: _ClassVar[int]
    START_STACK_ADDR_FIELD_NUMBER: _ClassVar[int]
    START_BRK_ADDR_FIELD_NUMBER: _ClassVar[int]
    BRK_ADDR_FIELD_NUMBER: _ClassVar[int]
    ARG_START_ADDR_FIELD_NUMBER: _ClassVar[int]
    ARG_END_ADDR_FIELD_NUMBER: _ClassVar[int]
    ENV_START_ADDR_FIELD_NUMBER: _ClassVar[int]
    ENV_END_ADDR_FIELD_NUMBER: _ClassVar[int]
    EXE_FILE_FIELD_NUMBER: _ClassVar[int]
    AUXV_FIELD_NUMBER: _ClassVar[int]
    VMAS_FIELD_NUMBER: _ClassVar[int]
    DUMPABLE_FIELD_NUMBER: _ClassVar[int]
    AIO_RINGS_FIELD_NUMBER: _ClassVar[int]
    THP_DISABLED_FIELD_NUMBER: _ClassVar[int]
    start_code_addr: int
    end_code_addr: int
    start_data_addr: int
    end_data_addr: int
    start_stack_addr: int
    start_brk_addr: int
    brk_addr: int
    arg_start_addr: int
    arg_end_addr: int
    env_start_addr: int
    env_end_addr: int
    exe_file: int
    auxv: _containers.RepeatedScalarFieldContainer[int]
    vmas: _containers.RepeatedCompositeFieldContainer[Vma]
    dumpable: int
    aio_rings: _containers.RepeatedCompositeFieldContainer[AioRing]
    thp_disabled: bool
    def __init__(self, start_code_addr: _Optional[int] = ..., end_code_addr: _Optional[int] = ..., start_data_addr: _Optional[int] = ..., end_data_addr: _Optional[int] = ..., start_stack_addr: _Optional[int] = ..., start_brk_addr: _Optional[int] = ..., brk_addr: _Optional[int] = ..., arg_start_addr: _Optional[int] = ..., arg_end_addr: _Optional[int] = ..., env_start_addr: _Optional[int] = ..., env_end_addr: _Optional[int] = ..., exe_file: _Optional[int] = ..., auxv: _Optional[_Iterable[int]] = ..., vmas: _Optional[_Iterable[_Union[Vma, _Mapping]]] = ..., dumpable: _Optional[int] = ..., aio_rings: _Optional[_Iterable[_Union[AioRing, _Mapping]]] = ..., thp_disabled: _Optional[bool] = ...) -> None: ...

class Vma(_message.Message):
    __slots__ = ("start_addr", "end_addr", "offset_bytes", "shared_id", "protection", "flags", "status", "fd", "advice", "open_flags")
    START_ADDR_FIELD_NUMBER: _ClassVar[int]
    END_ADDR_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARED_ID_FIELD_NUMBER: _ClassVar[int]
    PROTECTION_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FLAGS_FIELD_NUMBER: _ClassVar[int]
    start_addr: int
    end_addr: int
    offset_bytes: int
    shared_id: int
    protection: int
    flags: int
    status: int
    fd: int
    advice: int
    open_flags: int
    def __init__(self, start_addr: _Optional[int] = ..., end_addr: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., shared_id: _Optional[int] = ..., protection: _Optional[int] = ..., flags: _Optional[int] = ..., status: _Optional[int] = ..., fd: _Optional[int] = ..., advice: _Optional[int] = ..., open_flags: _Optional[int] = ...) -> None: ...

class AioRing(_message.Message):
    __slots__ = ("addr", "n_requests", "size_bytes")
    ADDR_FIELD_NUMBER: _ClassVar[int]
    N_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    addr: int
    n_requests: int
    size_bytes: int
    def __init__(self, addr: _Optional[int] = ..., n_requests: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class PagemapHead(_message.Message):
    __slots__ = ("pages_id",)
    PAGES_ID_FIELD_NUMBER: _ClassVar[int]
    pages_id: int
    def __init__(self, pages_id: _Optional[int] = ...) -> None: ...

class PagemapEntry(_message.Message):
    __slots__ = ("start_addr", "n_pages_32", "in_parent", "flags", "n_pages")
    START_ADDR_FIELD_NUMBER: _ClassVar[int]
    N_PAGES_32_FIELD_NUMBER: _ClassVar[int]
    IN_PARENT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    N_PAGES_FIELD_NUMBER: _ClassVar[int]
    start_addr: int
    n_pages_32: int
    in_parent: bool
    flags: int
    n_pages: int
    def __init__(self, start_addr: _Optional[int] = ..., n_pages_32: _Optional[int] = ..., in_parent: _Optional[bool] = ..., flags: _Optional[int] = ..., n_pages: _Optional[int] = ...) -> None: ...

class PagemapEntries(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[PagemapEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[PagemapEntry, _Mapping]]] = ...) -> None: ...

class Descriptor(_message.Message):
    __slots__ = ("file", "flags", "kind", "fd")
    FILE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    file: int
    flags: int
    kind: int
    fd: int
    def __init__(self, file: _Optional[int] = ..., flags: _Optional[int] = ..., kind: _Optional[int] = ..., fd: _Optional[int] = ...) -> None: ...

class OpenFile(_message.Message):
    __slots__ = ("kind", "id", "regular", "eventfd", "fifo", "pipe", "memfd")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REGULAR_FIELD_NUMBER: _ClassVar[int]
    EVENTFD_FIELD_NUMBER: _ClassVar[int]
    FIFO_FIELD_NUMBER: _ClassVar[int]
    PIPE_FIELD_NUMBER: _ClassVar[int]
    MEMFD_FIELD_NUMBER: _ClassVar[int]
    kind: int
    id: int
    regular: RegularFile
    eventfd: Eventfd
    fifo: Pipe
    pipe: Pipe
    memfd: Memfd
    def __init__(self, kind: _Optional[int] = ..., id: _Optional[int] = ..., regular: _Optional[_Union[RegularFile, _Mapping]] = ..., eventfd: _Optional[_Union[Eventfd, _Mapping]] = ..., fifo: _Optional[_Union[Pipe, _Mapping]] = ..., pipe: _Optional[_Union[Pipe, _Mapping]] = ..., memfd: _Optional[_Union[Memfd, _Mapping]] = ...) -> None: ...

class RegularFile(_message.Message):
    __slots__ = ("id", "flags", "offset", "owner", "path", "mount_id", "size_bytes", "external", "mode", "build_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    flags: int
    offset: int
    owner: FileOwner
    path: bytes
    mount_id: int
    size_bytes: int
    external: bool
    mode: int
    build_id: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[int] = ..., flags: _Optional[int] = ..., offset: _Optional[int] = ..., owner: _Optional[_Union[FileOwner, _Mapping]] = ..., path: _Optional[bytes] = ..., mount_id: _Optional[int] = ..., size_bytes: _Optional[int] = ..., external: _Optional[bool] = ..., mode: _Optional[int] = ..., build_id: _Optional[_Iterable[int]] = ...) -> None: ...

class Eventfd(_message.Message):
    __slots__ = ("id", "flags", "owner", "count")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    id: int
    flags: int
    owner: FileOwner
    count: int
    def __init__(self, id: _Optional[int] = ..., flags: _Optional[int] = ..., owner: _Optional[_Union[FileOwner, _Mapping]] = ..., count: _Optional[int] = ...) -> None: ...

class Pipe(_message.Message):
    __slots__ = ("id", "pipe", "flags", "owner")
    ID_FIELD_NUMBER: _ClassVar[int]
    PIPE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    id: int
    pipe: int
    flags: int
    owner: FileOwner
    def __init__(self, id: _Optional[int] = ..., pipe: _Optional[int] = ..., flags: _Optional[int] = ..., owner: _Optional[_Union[FileOwner, _Mapping]] = ...) -> None: ...

class Memfd(_message.Message):
    __slots__ = ("id", "flags", "offset", "owner", "inode")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    id: int
    flags: int
    offset: int
    owner: FileOwner
    inode: int
    def __init__(self, id: _Optional[int] = ..., flags: _Optional[int] = ..., offset: _Optional[int] = ..., owner: _Optional[_Union[FileOwner, _Mapping]] = ..., inode: _Optional[int] = ...) -> None: ...

class MemfdInode(_message.Message):
    __slots__ = ("name", "uid", "gid", "size_bytes", "shared_id", "seals", "id", "hugetlb_flags", "mode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARED_ID_FIELD_NUMBER: _ClassVar[int]
    SEALS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    HUGETLB_FLAGS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    uid: int
    gid: int
    size_bytes: int
    shared_id: int
    seals: int
    id: int
    hugetlb_flags: int
    mode: int
    def __init__(self, name: _Optional[bytes] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., size_bytes: _Optional[int] = ..., shared_id: _Optional[int] = ..., seals: _Optional[int] = ..., id: _Optional[int] = ..., hugetlb_flags: _Optional[int] = ..., mode: _Optional[int] = ...) -> None: ...

class FileOwner(_message.Message):
    __slots__ = ("uid", "effective_uid", "signal", "kind", "pid")
    UID_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_UID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    uid: int
    effective_uid: int
    signal: int
    kind: int
    pid: int
    def __init__(self, uid: _Optional[int] = ..., effective_uid: _Optional[int] = ..., signal: _Optional[int] = ..., kind: _Optional[int] = ..., pid: _Optional[int] = ...) -> None: ...

class PipeContent(_message.Message):
    __slots__ = ("pipe", "n_bytes", "capacity_bytes")
    PIPE_FIELD_NUMBER: _ClassVar[int]
    N_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    pipe: int
    n_bytes: int
    capacity_bytes: int
    def __init__(self, pipe: _Optional[int] = ..., n_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ...) -> None: ...

class Directories(_message.Message):
    __slots__ = ("cwd_file", "root_file", "umask")
    CWD_FILE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FILE_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    cwd_file: int
    root_file: int
    umask: int
    def __init__(self, cwd_file: _Optional[int] = ..., root_file: _Optional[int] = ..., umask: _Optional[int] = ...) -> None: ...

class SeccompFilter(_message.Message):
    __slots__ = ("program", "previous", "flags")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    program: bytes
    previous: int
    flags: int
    def __init__(self, program: _Optional[bytes] = ..., previous: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class SeccompFilters(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[SeccompFilter]
    def __init__(self, filters: _Optional[_Iterable[_Union[SeccompFilter, _Mapping]]] = ...) -> None: ...

class Timespec(_message.Message):
    __slots__ = ("s", "ns")
    S_FIELD_NUMBER: _ClassVar[int]
    NS_FIELD_NUMBER: _ClassVar[int]
    s: int
    ns: int
    def __init__(self, s: _Optional[int] = ..., ns: _Optional[int] = ...) -> None: ...

class TimeNamespace(_message.Message):
    __slots__ = ("monotonic", "boottime")
    MONOTONIC_FIELD_NUMBER: _ClassVar[int]
    BOOTTIME_FIELD_NUMBER: _ClassVar[int]
    monotonic: Timespec
    boottime: Timespec
    def __init__(self, monotonic: _Optional[_Union[Timespec, _Mapping]] = ..., boottime: _Optional[_Union[Timespec, _Mapping]] = ...) -> None: ...

class DumpStats(_message.Message):
    __slots__ = ("stop_us", "frozen_us", "copy_us", "write_us", "pages_scanned", "pages_parent", "pages_data", "irmap_resolve_us", "pages_lazy", "page_pipes", "page_pipe_buffers", "shared_pages_scanned", "shared_pages_parent", "shared_pages_data")
    STOP_US_FIELD_NUMBER: _ClassVar[int]
    FROZEN_US_FIELD_NUMBER: _ClassVar[int]
    COPY_US_FIELD_NUMBER: _ClassVar[int]
    WRITE_US_FIELD_NUMBER: _ClassVar[int]
    PAGES_SCANNED_FIELD_NUMBER: _ClassVar[int]
    PAGES_PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGES_DATA_FIELD_NUMBER: _ClassVar[int]
    IRMAP_RESOLVE_US_FIELD_NUMBER: _ClassVar[int]
    PAGES_LAZY_FIELD_NUMBER: _ClassVar[int]
    PAGE_PIPES_FIELD_NUMBER: _ClassVar[int]
    PAGE_PIPE_BUFFERS_FIELD_NUMBER: _ClassVar[int]
    SHARED_PAGES_SCANNED_FIELD_NUMBER: _ClassVar[int]
    SHARED_PAGES_PARENT_FIELD_NUMBER: _ClassVar[int]
    SHARED_PAGES_DATA_FIELD_NUMBER: _ClassVar[int]
    stop_us: int
    frozen_us: int
    copy_us: int
    write_us: int
    pages_scanned: int
    pages_parent: int
    pages_data: int
    irmap_resolve_us: int
    pages_lazy: int
    page_pipes: int
    page_pipe_buffers: int
    shared_pages_scanned: int
    shared_pages_parent: int
    shared_pages_data: int
    def __init__(self, stop_us: _Optional[int] = ..., frozen_us: _Optional[int] = ..., copy_us: _Optional[int] = ..., write_us: _Optional[int] = ..., pages_scanned: _Optional[int] = ..., pages_parent: _Optional[int] = ..., pages_data: _Optional[int] = ..., irmap_resolve_us: _Optional[int] = ..., pages_lazy: _Optional[int] = ..., page_pipes: _Optional[int] = ..., page_pipe_buffers: _Optional[int] = ..., shared_pages_scanned: _Optional[int] = ..., shared_pages_parent: _Optional[int] = ..., shared_pages_data: _Optional[int] = ...) -> None: ...

class Stats(_message.Message):
    __slots__ = ("dump",)
    DUMP_FIELD_NUMBER: _ClassVar[int]
    dump: DumpStats
    def __init__(self, dump: _Optional[_Union[DumpStats, _Mapping]] = ...) -> None: ...
