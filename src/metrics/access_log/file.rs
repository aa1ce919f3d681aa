//! `LogFile`: writes lines on a thread of its own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use super::queue::{Batch, Queue};

/// The default of how many lines may wait.
const QUEUE: usize = 8192;

/// The most memory that the writer keeps between two writes, in bytes.
const KEPT: usize = 1 << 20;

/// A file that a thread of its own writes, so that no request waits for a disk. Clones are handles to one file;
/// after the last one is dropped, what waits is written and the thread ends.
///
/// Lines are gathered for at most 200 ms and written at once, at the end of the file. While the disk is slower than
/// the lines come, as many wait as the queue has places for, of 1 KiB on average; more are
/// [dropped and counted](Self::dropped).
#[derive(Debug, Clone)]
pub struct LogFile {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle(Arc<Queue>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Where the lines go.
enum Target {
    Stdout,
    Writer(Box<dyn Write + Send>),
    File {
        path: PathBuf,
        /// `None` where it is opened by the thread.
        file: Option<File>,
    },
}

impl LogFile {
    /// Appends to the file at `path`, which is created if it is not there. Up to 8192 lines may wait.
    ///
    /// # Errors
    ///
    /// When it cannot be opened. A named pipe is opened by the thread, as that waits for a reader.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path, QUEUE)
    }

    /// The same, where up to `queue` lines may wait, at least 1.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open_with(path: impl AsRef<Path>, queue: usize) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let file = if is_pipe(&path) { None } else { Some(append(&path)?) };
        Self::start(Target::File { path, file }, queue)
    }

    /// Writes to the standard output, where up to `queue` lines may wait.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn stdout(queue: usize) -> io::Result<Self> {
        Self::start(Target::Stdout, queue)
    }

    /// Writes to `writer`, where up to `queue` lines may wait.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn to(writer: impl Write + Send + 'static, queue: usize) -> io::Result<Self> {
        Self::start(Target::Writer(Box::new(writer)), queue)
    }

    fn start(target: Target, queue: usize) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(queue));
        let of_thread = queue.clone();
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&of_thread, target))?;
        Ok(Self { handle: Arc::new(Handle(queue)) })
    }

    /// Writes a line, which ends with a line feed, or drops it. It never waits for the disk.
    pub fn write(&self, line: &[u8]) {
        self.queue().push(line);
    }

    /// Opens the file again, after the lines that wait are written: it was renamed. When it cannot be opened, the
    /// old one stays, and the error is logged. Nothing happens to the standard output.
    pub fn reopen(&self) {
        self.queue().reopen();
    }

    /// Waits until all lines are written, at most for `limit`, and returns whether they are. It blocks the thread.
    pub fn flush(&self, limit: Duration) -> bool {
        self.queue().flush(limit)
    }

    /// How many lines were written.
    pub fn written(&self) -> u64 {
        self.queue().written()
    }

    /// How many lines were dropped, because the queue was full or they could not be written.
    pub fn dropped(&self) -> u64 {
        self.queue().dropped()
    }

    /// Whether both are handles to one file.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    fn queue(&self) -> &Queue {
        &self.handle.0
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(unix)]
fn is_pipe(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
}

#[cfg(not(unix))]
fn is_pipe(_: &Path) -> bool {
    false
}

/// Writes lines until there will be no more.
fn write_lines(queue: &Queue, mut target: Target) {
    let (mut batch, mut failing) = (Vec::new(), false);
    loop {
        let Batch { lines, reopen, last } = queue.take(&mut batch);
        let result = if batch.is_empty() { Ok(()) } else { target.write(&batch) };
        match &result {
            Ok(()) => queue.count_written(lines),
            Err(error) => {
                queue.count_dropped(lines);
                // Once for each time that it begins to fail.
                if !failing {
                    tracing::error!(%error, "the access log cannot be written; lines are dropped");
                }
            }
        }
        failing = result.is_err();
        if reopen {
            target.reopen();
        }
        if last && batch.is_empty() {
            return;
        }
        batch.clear();
        batch.shrink_to(KEPT);
    }
}

impl Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::Writer(writer) => {
                writer.write_all(bytes)?;
                writer.flush()
            }
            Self::File { path, file } => {
                let mut open = match file.take() {
                    Some(open) => open,
                    None => append(path)?,
                };
                let result = open.write_all(bytes);
                *file = Some(open);
                result
            }
        }
    }

    fn reopen(&mut self) {
        if let Self::File { path, file } = self {
            match append(path) {
                Ok(new) => *file = Some(new),
                Err(error) => tracing::error!(
                    %error, path = %path.display(),
                    "the access log cannot be opened again; the old file is written further"
                ),
            }
        }
    }
}
