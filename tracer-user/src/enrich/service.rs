//! What a process is called when nobody has named it: the executable, and for interpreters what they run.
//!
//! The rule: the executable's file name. For an interpreter (python, node, java, ruby, perl, php, …) a space and the
//! file name of the script or jar, or the module or main class, as its command line gives it: `python3 app.py`,
//! `java shop.jar`, `python3 http.server`. Minor versions are left off (`python3.11` → `python3`), so that an upgrade
//! does not rename a service. An executable that several names lead to (`redis-server` → `redis-check-rdb`, busybox) is called by the name
//! that it was started by: where the thread's name and the command line agree on one. A process that has put a title over its command line (`gunicorn: master [shop]`) is
//! called by the title's first word. Code given on the command line (`python3 -c …`) is never a name.

/// How an interpreter's command line is read.
struct Interpreter {
    /// File names that begin with this, followed by a version or nothing.
    stem: &'static str,
    /// Options whose argument is the next word.
    with_argument: &'static [&'static str],
    /// Options whose argument is what runs.
    runs: &'static [&'static str],
    /// Options that give the code itself: there is nothing to name.
    inline: &'static [&'static str],
    /// What runs is a file whose directory says nothing; otherwise a class or module, kept whole.
    runs_file: bool,
}

const INTERPRETERS: &[Interpreter] = &[
    Interpreter {
        stem: "python",
        with_argument: &["-W", "-X", "--check-hash-based-pycs"],
        runs: &["-m"],
        inline: &["-c"],
        runs_file: true,
    },
    Interpreter {
        stem: "pypy",
        with_argument: &["-W", "-X"],
        runs: &["-m"],
        inline: &["-c"],
        runs_file: true,
    },
    Interpreter {
        stem: "node",
        with_argument: &[
            "-r",
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "-C",
            "--conditions",
            "--env-file",
            "--icu-data-dir",
            "--openssl-config",
            "--title",
        ],
        runs: &[],
        inline: &["-e", "--eval", "-p", "--print", "-pe"],
        runs_file: true,
    },
    Interpreter {
        stem: "java",
        with_argument: &[
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--upgrade-module-path",
            "--add-modules",
            "--add-opens",
            "--add-exports",
            "--add-reads",
            "--limit-modules",
            "--source",
        ],
        runs: &["-jar", "-m", "--module"],
        inline: &[],
        runs_file: false,
    },
    Interpreter {
        stem: "ruby",
        with_argument: &["-I", "-r", "-C", "-E"],
        runs: &[],
        inline: &["-e"],
        runs_file: true,
    },
    Interpreter { stem: "perl", with_argument: &["-I"], runs: &[], inline: &["-e", "-E"], runs_file: true },
    Interpreter {
        stem: "php",
        with_argument: &["-c", "-d", "-z", "-S", "-t"],
        runs: &["-f"],
        inline: &["-r"],
        runs_file: true,
    },
];

/// Bytes of a thread's name (`TASK_COMM_LEN`, include/linux/sched.h, less its NUL).
const COMM_BYTES: usize = 15;

/// The name by executable path and command line (words separated by NUL, as `/proc/PID/cmdline` has them).
/// `comm` is the thread's name: the kernel makes it of the path that was executed, links not followed. Empty when nothing says anything.
pub fn executable_name(exe: &[u8], cmdline: &[u8], comm: &[u8]) -> Vec<u8> {
    let exe = exe.strip_suffix(b" (deleted)").unwrap_or(exe);
    let name = without_minor_version(file_name(exe));
    let Some(interpreter) = INTERPRETERS.iter().find(|interpreter| interpreter.is(name)) else {
        let called =
            cmdline.split(|&byte| byte == 0 || byte == b' ').next().map(file_name).unwrap_or_default();
        let is_by_another_name = !comm.is_empty()
            && called.get(..COMM_BYTES.min(called.len())) == Some(comm)
            && !file_name(exe).starts_with(comm);
        return without_minor_version(if is_by_another_name { called } else { name }).to_vec();
    };
    let mut words = cmdline.split(|&byte| byte == 0);
    let first = words.next().unwrap_or_default();
    // A word that is no path and not the interpreter: a title that the program gave itself.
    let title = first.split(|&byte| byte == b' ').next().unwrap_or_default();
    let is_own_name = first.is_empty() || file_name(title).starts_with(interpreter.stem.as_bytes());
    if !is_own_name && !first.starts_with(b"/") {
        return title.strip_suffix(b":").unwrap_or(title).to_vec();
    }
    match interpreter.program(words) {
        Some(program) if !program.is_empty() => [name, b" ", program].concat(),
        _ => name.to_vec(),
    }
}

impl Interpreter {
    fn is(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.stem.as_bytes())
            .is_some_and(|version| version.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'))
            || (self.stem == "node" && name == b"nodejs")
    }

    /// Java's `@FILE`, which holds more options.
    fn is_argument_file(&self, word: &[u8]) -> bool {
        self.stem == "java" && word.starts_with(b"@")
    }

    /// What runs: the first word that is neither an option nor an option's argument.
    fn program<'a>(&self, mut words: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
        let among = |options: &[&str], word: &[u8]| options.iter().any(|option| option.as_bytes() == word);
        loop {
            let word = words.next()?;
            if among(self.inline, word) {
                return None;
            }
            if among(self.runs, word) {
                let program = words.next()?;
                // `-jar` and `-f` take files, `-m` modules (java: module/class).
                let is_file = matches!(word, b"-jar" | b"-f");
                return Some(if is_file { file_name(program) } else { program });
            }
            if among(self.with_argument, word) {
                words.next()?;
            } else if word == b"--" {
                let program = words.next()?;
                return Some(if self.runs_file { file_name(program) } else { program });
            } else if !word.starts_with(b"-") && !self.is_argument_file(word) {
                return Some(if self.runs_file { file_name(word) } else { word });
            }
        }
    }
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// `python3.11` → `python3`; a name without such an end stays.
fn without_minor_version(name: &[u8]) -> &[u8] {
    let Some(dot) = name.iter().position(|&byte| byte == b'.') else { return name };
    let (stem, rest) = name.split_at(dot);
    let is_version = rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let interpreter = INTERPRETERS.iter().any(|interpreter| interpreter.is(stem));
    if interpreter && is_version { stem } else { name }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("/usr/sbin/nginx", "nginx: worker process", "nginx")]
    #[case::upgraded("/usr/sbin/nginx (deleted)", "nginx\0", "nginx")]
    #[case::dots_stay("/opt/app.v2", "app", "app.v2")]
    #[case::python_script(
        "/usr/bin/python3.11",
        "python3\0-u\0/srv/shop/app.py\0--port\08000\0",
        "python3 app.py"
    )]
    #[case::python_module("/usr/bin/python3.11", "python3\0-m\0http.server\08000\0", "python3 http.server")]
    #[case::python_options(
        "/usr/bin/python3",
        "/usr/bin/python3\0-W\0ignore\0-X\0dev\0a.py\0",
        "python3 a.py"
    )]
    #[case::python_code("/usr/bin/python3", "python3\0-c\0import secret; run('pass')\0", "python3")]
    #[case::python_title("/usr/bin/python3.11", "gunicorn: master [shop]\0\0\0", "gunicorn")]
    #[case::ruby_title("/usr/bin/ruby3.1", "puma 5.6.5 (tcp://0.0.0.0:80) [shop]\0", "puma")]
    #[case::python_shell("/usr/bin/python3", "python3\0", "python3")]
    #[case::node_script(
        "/usr/bin/node",
        "node\0--max-old-space-size=4096\0-r\0dd\0/srv/index.js\0",
        "node index.js"
    )]
    #[case::node_code("/usr/bin/node", "node\0-e\0x()\0", "node")]
    #[case::node_debian("/usr/bin/nodejs", "nodejs\0server.js\0", "nodejs server.js")]
    #[case::java_jar("/usr/lib/jvm/bin/java", "java\0-Xmx1g\0-jar\0/opt/shop.jar\0x\0", "java shop.jar")]
    #[case::java_class(
        "/usr/lib/jvm/bin/java",
        "java\0-cp\0/opt/a.jar:/opt/b.jar\0@args\0com.shop.Main\0x\0",
        "java com.shop.Main"
    )]
    #[case::java_module("/usr/lib/jvm/bin/java", "java\0-m\0shop/com.shop.Main\0", "java shop/com.shop.Main")]
    #[case::ruby("/usr/bin/ruby3.1", "/usr/bin/ruby3.1\0-I\0lib\0bin/shop\0", "ruby3 shop")]
    #[case::perl("/usr/bin/perl", "/usr/bin/perl\0-w\0/usr/bin/starman\0", "perl starman")]
    #[case::php("/usr/bin/php8.2", "php\0-d\0a=b\0-S\0:80\0router.php\0", "php8 router.php")]
    #[case::not_an_interpreter("/usr/bin/nodeadm", "nodeadm\0x\0", "nodeadm")]
    #[case::fpm("/usr/sbin/php-fpm8.2", "php-fpm: pool www\0", "php-fpm8.2")]
    #[case::cut_off("/usr/bin/java", "java\0-cp", "java")]
    #[case::no_cmdline("/usr/bin/python3.11", "", "python3")]
    #[case::nothing("", "", "")]
    fn a_process_is_called_by_what_it_runs(#[case] exe: &str, #[case] cmdline: &str, #[case] name: &str) {
        let found = executable_name(exe.as_bytes(), cmdline.as_bytes(), b"");
        assert_eq!(String::from_utf8(found).unwrap(), name);
    }

    #[test]
    fn an_executable_of_several_names_is_called_by_the_one_that_it_was_started_by() {
        for (exe, cmdline, comm, name) in [
            ("/usr/bin/redis-check-rdb", "redis-server *:6379", "redis-server", "redis-server"),
            ("/usr/bin/redis-check-rdb", "/usr/bin/redis-server\0*:6379\0", "redis-server", "redis-server"),
            ("/bin/busybox", "httpd\0-f\0", "httpd", "httpd"),
            ("/opt/multi", "/opt/a-name-of-more-than-15\0", "a-name-of-more-", "a-name-of-more-than-15"),
            // A name that a program gave itself, or its thread, is no name of the program.
            ("/usr/sbin/nginx", "nginx: worker process", "nginx", "nginx"),
            ("/usr/lib/postgresql/15/bin/postgres", "postgres: checkpointer ", "postgres", "postgres"),
            ("/srv/shop", "/srv/shop\0", "tokio-runtime-w", "shop"),
            ("/srv/shop", "", "other", "shop"),
            ("/usr/bin/perl-tool", "/usr/bin/other\0", "perl-tool", "perl-tool"),
        ] {
            let found = executable_name(exe.as_bytes(), cmdline.as_bytes(), comm.as_bytes());
            assert_eq!(String::from_utf8_lossy(&found), name, "{exe} {cmdline:?} {comm}");
        }
    }
}
