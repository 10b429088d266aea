/*
 * Follows every process that the host scripts start, gives each a label that is the same in every run,
 * and strikes one of them.
 *
 *   tracer LOG MODE TARGET -p PID          attaches to PID (an sshd) and all that it starts from now on
 *   tracer LOG MODE TARGET -- COMMAND ...  runs COMMAND and follows it
 *
 * A script of ours begins a label: `stage#1`, `guard#2`, for a document that came over SSH `session#1`. The N-th
 * child of a process has the parent's label, a slash and N. Global numbers would differ from run to run, because
 * guards, apply and sessions run side by side.
 *
 *   none   only follows          birth  SIGKILL before the process does anything
 *   end    SIGKILL when it has done everything but exit
 *   exec   execve(2) fails with EIO
 *   read   each read(2) of a file of kvmfw's fails with EIO
 *   stop   SIGSTOP before it does anything
 *
 * LOG gets a line `birth LABEL`, `exec LABEL COMMAND LINE`, `read LABEL` (the first of kvmfw's files that a process
 * read; only with mode `reads`), and `struck LABEL PID`. Whoever ends the tracer lets what it followed run on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <unistd.h>

struct proc {
	char *label;
	int children;
	/* Its birth was seen, by its own stop and by the event of its parent. */
	char stopped, placed;
	char target, failing, has_read;
};

#define MOST 4194304
static struct proc *procs[MOST];
static FILE *log_file;
static const char *mode, *target;
static int struck, reads, own;
static struct { char name[64]; int count; } roots[256];

static struct proc *proc_of(pid_t pid)
{
	if (!procs[pid]) procs[pid] = calloc(1, sizeof(struct proc));
	return procs[pid];
}

static void tell(const char *what, const char *label, const char *more)
{
	fprintf(log_file, "%s %s%s%s\n", what, label, more ? " " : "", more ? more : "");
	fflush(log_file);
}

static void tell_struck(pid_t pid, const struct proc *proc)
{
	char number[16];
	snprintf(number, sizeof number, "%d", pid);
	tell("struck", proc->label, number);
}

static char *file_text(pid_t pid, const char *name, size_t *length)
{
	static char text[8192];
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	FILE *file = fopen(path, "r");
	*length = 0;
	if (file) {
		*length = fread(text, 1, sizeof text - 1, file);
		fclose(file);
	}
	text[*length] = 0;
	return text;
}

static void begin(struct proc *proc, const char *name)
{
	int at = 0;
	while (roots[at].count && strcmp(roots[at].name, name)) at++;
	snprintf(roots[at].name, sizeof roots[at].name, "%s", name);
	roots[at].count++;
	free(proc->label);
	if (asprintf(&proc->label, "%s#%d", name, roots[at].count) < 0) exit(1);
	proc->children = 0;
}

static int is_shell(const char *path)
{
	const char *name = strrchr(path, '/');
	name = name ? name + 1 : path;
	return !strcmp(name, "sh") || !strcmp(name, "-sh") || !strcmp(name, "bash") || !strcmp(name, "-bash") ||
	       !strcmp(name, "dash") || !strcmp(name, "busybox");
}

/* Two guards start at once, and the one that gets the lock does the work: which of them it is differs from run to run.
   The other only waits for the lock, as its first children show. */
static int is_target(const char *label)
{
	const char *one = strchr(label, '/'), *other = strchr(target, '/');

	if (!strcmp(label, target)) return 1;
	return !strncmp(label, "guard#", 6) && !strncmp(target, "guard#", 6) && one && other && !strcmp(one, other) &&
	       atoi(other + 1) > 2;
}

/* The calls by which the target is struck, seen one by one. */
static int by_calls(void) { return !strcmp(mode, "end") || !strcmp(mode, "exec") || !strcmp(mode, "read"); }

static void go_on(pid_t pid, int sig)
{
	struct proc *proc = proc_of(pid);
	int every = reads ? proc->label != NULL : proc->target && by_calls();
	ptrace(every ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, sig);
}

static void aim(pid_t pid, struct proc *proc)
{
	if (struck || !proc->label || !is_target(proc->label)) return;
	struck = 1;
	proc->target = 1;
	if (!by_calls()) tell_struck(pid, proc);
	if (!strcmp(mode, "birth")) kill(pid, SIGKILL);
	if (!strcmp(mode, "stop")) kill(pid, SIGSTOP);
}

static void executed(pid_t pid)
{
	struct proc *proc = proc_of(pid);
	size_t length;
	char *text = file_text(pid, "cmdline", &length), *words[3] = { "", "", "" };
	size_t at = 0;
	for (int n = 0; n < 3 && at < length; n++) {
		words[n] = text + at;
		at += strlen(words[n]) + 1;
	}
	size_t end = strlen(words[1]);
	if (is_shell(words[0])) {
		if (end > 8 && !strcmp(words[1] + end - 8, "kvmfw.sh")) begin(proc, words[2]);
		else if (!own && !proc->label && (!strcmp(words[1], "-c") || !strcmp(words[1], "-s"))) begin(proc, "session");
	}
	if (!proc->label) return;
	for (size_t i = 0; i + 1 < length; i++)
		if (text[i] == 0 || text[i] == '\n') text[i] = ' ';
	if (length > 200) text[200] = 0;
	tell("exec", proc->label, text);
	aim(pid, proc);
}

static void born(pid_t parent, pid_t pid)
{
	struct proc *from = proc_of(parent), *proc = proc_of(pid);
	if (proc->placed) return;
	proc->placed = 1;
	if (from->label) {
		free(proc->label);
		if (asprintf(&proc->label, "%s/%d", from->label, ++from->children) < 0) exit(1);
		tell("birth", proc->label, NULL);
		aim(pid, proc);
	}
	if (proc->stopped) go_on(pid, 0);
}

static int reads_ours(pid_t pid, long fd)
{
	char path[64], name[4096];
	snprintf(path, sizeof path, "/proc/%d/fd/%ld", pid, fd);
	ssize_t length = readlink(path, name, sizeof name - 1);
	if (length < 0) return 0;
	name[length] = 0;
	size_t end = strlen("kvmfw.sh");
	/* A script that cannot be read is a program that cannot be run, and has its own mode. */
	return strstr(name, "/kvmfw/") != NULL && !((size_t)length > end && !strcmp(name + length - end, "kvmfw.sh"));
}

static void called(pid_t pid)
{
	struct proc *proc = proc_of(pid);
	struct user_regs_struct regs;
	/* Whether a call begins or ends cannot be counted: a new process ends a fork that it never began. */
	struct __ptrace_syscall_info info;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) < 0) return;
	if (ptrace(PTRACE_GETREGS, pid, 0, &regs)) return;
	if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
		if (proc->failing) {
			regs.rax = (unsigned long)-EIO;
			ptrace(PTRACE_SETREGS, pid, 0, &regs);
			proc->failing = 0;
		}
		return;
	}
	long call = (long)regs.orig_rax;
	if (reads) {
		if (!proc->has_read && call == SYS_read && reads_ours(pid, (long)regs.rdi)) {
			proc->has_read = 1;
			tell("read", proc->label, NULL);
		}
		return;
	}
	int fail = !strcmp(mode, "exec") && (call == SYS_execve || call == SYS_execveat);
	fail |= !strcmp(mode, "read") && call == SYS_read && reads_ours(pid, (long)regs.rdi);
	if (fail) {
		if (!proc->has_read) tell_struck(pid, proc);
		proc->has_read = 1;
		regs.orig_rax = (unsigned long)-1;
		ptrace(PTRACE_SETREGS, pid, 0, &regs);
		proc->failing = 1;
	}
	if (!strcmp(mode, "end") && (call == SYS_exit_group || call == SYS_exit)) {
		tell_struck(pid, proc);
		kill(pid, SIGKILL);
	}
}

int main(int argc, char **argv)
{
	if (argc < 6) return 2;
	log_file = fopen(argv[1], "w");
	mode = argv[2], target = argv[3];
	reads = !strcmp(mode, "reads");
	long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD;
	pid_t first;
	own = !strcmp(argv[4], "--");
	if (own) {
		first = fork();
		if (!first) {
			raise(SIGSTOP);
			execvp(argv[5], argv + 5);
			_exit(127);
		}
		int status;
		waitpid(first, &status, WUNTRACED);
	} else first = atoi(argv[5]);
	if (ptrace(PTRACE_SEIZE, first, 0, options)) return 3;
	if (own) kill(first, SIGCONT);
	proc_of(first)->placed = 1;
	tell("ready", "-", NULL);
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0) return errno == ECHILD ? 0 : 4;
		struct proc *proc = proc_of(pid);
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (WIFEXITED(status) && proc->label) tell("exit", proc->label, NULL);
			free(proc->label);
			free(proc);
			procs[pid] = NULL;
			if (own && pid == first) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		int sig = WSTOPSIG(status), event = status >> 16;
		if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
			unsigned long child;
			if (!ptrace(PTRACE_GETEVENTMSG, pid, 0, &child)) born(pid, (pid_t)child);
			go_on(pid, 0);
		} else if (event == PTRACE_EVENT_EXEC) {
			executed(pid);
			go_on(pid, 0);
		} else if (event == PTRACE_EVENT_STOP) {
			if (!proc->stopped && pid != first) {
				proc->stopped = 1;
				/* Its label comes with the event of its parent. */
				if (proc->placed) go_on(pid, 0);
			} else if (sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU)
				ptrace(PTRACE_LISTEN, pid, 0, 0);
			else go_on(pid, 0);
		} else if (sig == (SIGTRAP | 0x80)) {
			called(pid);
			go_on(pid, 0);
		} else if (sig == SIGTRAP) go_on(pid, 0);
		else go_on(pid, sig);
	}
}
