//! Not a module of the tests: a library with an allocator of its own. It aborts where a block is given back that it has not
//! given, and so does the other side's where a block of this one is.

use std::alloc::{GlobalAlloc, Layout, System};

use decurion::prelude::*;

/// The system's, with a mark before each block.
struct Marked;

const MARK: usize = 0x5eed_b10c_ca11_0c8d;

fn whole(layout: Layout) -> Option<(Layout, usize)> {
    let room = layout.align().max(16);
    let size = layout.size().checked_add(room)?;
    Some((Layout::from_size_align(size, room).ok()?, room))
}

// SAFETY: each block lies in one of the system's, behind room for its mark that keeps it aligned.
unsafe impl GlobalAlloc for Marked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, room)) = whole(layout) else { return std::ptr::null_mut() };
        // SAFETY: its size is not zero.
        let start = unsafe { System.alloc(whole) };
        if start.is_null() {
            return start;
        }
        // SAFETY: there is so much room before it, of which the last word is the mark's.
        unsafe {
            let block = start.add(room);
            block.cast::<usize>().sub(1).write(MARK ^ block.addr());
            block
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((whole, room)) = whole(layout) else { std::process::abort() };
        // SAFETY: before a block of ours is its mark; before others is what their allocator keeps.
        let mark = unsafe { block.cast::<usize>().sub(1) };
        // SAFETY: as above.
        if unsafe { mark.replace(0) } != MARK ^ block.addr() {
            std::process::abort();
        }
        // SAFETY: it was given so.
        unsafe { System.dealloc(block.sub(room), whole) }
    }
}

#[global_allocator]
static ALLOCATOR: Marked = Marked;

#[derive(Default)]
struct Own;

#[deployment]
impl Own {
    fn call(&self, req: Request) -> Result<Response> {
        match req.sub_path() {
            "/panic" => panic!("as asked"),
            "/error" => Err(Error::status(422, "not that")),
            _ => Ok(Response::new(200, req.text()?.to_uppercase()).with_header("x-id", req.id())),
        }
    }

    /// Each item twice.
    pub fn twice(&self, items: Vec<String>) -> Vec<String> {
        items.into_iter().map(|item| item.repeat(2)).collect()
    }
}
