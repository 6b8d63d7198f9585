//! The vaults of the configuration as places from which a repair of the pool gets back what is lost.

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;

use cloudsync::heal::VaultHealer;
use storepool::id::{ChunkId, ChunkKind};
use storepool::repair::ChunkHealer;

use crate::assembly::Assembly;
use crate::config::Config;
use crate::error::{Cause, Error};
use crate::vaults::{self, Engine, VaultFiles};

/// All vaults that this server is registered with, asked one after the other. None is opened before a chunk is wanted, and one that fails is passed over.
pub(crate) struct ConfiguredVaults<'a> {
    assembly: &'a Assembly,
    config: &'a Config,
    engine: OnceCell<Engine>,
    open: OnceCell<Vec<(String, VaultHealer)>>,
    troubles: RefCell<Vec<String>>,
}

impl<'a> ConfiguredVaults<'a> {
    /// Creates the healer; nothing is opened yet.
    pub(crate) fn new(assembly: &'a Assembly, config: &'a Config) -> Self {
        let (engine, open, troubles) = (OnceCell::new(), OnceCell::new(), RefCell::default());
        Self { assembly, config, engine, open, troubles }
    }

    /// Returns why vaults could not help, for people.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut troubles = self.troubles.borrow().clone();
        for (name, healer) in self.open.get().into_iter().flatten() {
            troubles.extend(healer.trouble().map(|trouble| format!("vault \"{name}\": {trouble}")));
        }
        troubles
    }

    fn healers(&self) -> &[(String, VaultHealer)] {
        self.open.get_or_init(|| {
            let engine = match self.engine() {
                Ok(engine) => engine,
                Err(error) => {
                    self.troubles.borrow_mut().push(error.cause.chain());
                    return Vec::new();
                }
            };
            let mut open = Vec::new();
            for (name, vault) in &self.config.vaults {
                if !VaultFiles::of(&self.assembly.place, name).is_registered() {
                    continue;
                }
                let opened: Result<_, Cause> =
                    vaults::look_into(self.assembly, engine, name, vault);
                match opened {
                    Ok((realm, snapshot)) => {
                        let handle = engine.handle().clone();
                        open.push((name.clone(), VaultHealer::new(realm, snapshot, handle)));
                    }
                    Err(cause) => {
                        let trouble = format!("vault \"{name}\": {}", cause.chain());
                        self.troubles.borrow_mut().push(trouble);
                    }
                }
            }
            open
        })
    }

    fn engine(&self) -> Result<&Engine, Error> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::start()?;
        Ok(self.engine.get_or_init(|| engine))
    }
}

impl ChunkHealer for ConfiguredVaults<'_> {
    fn fetch(
        &self,
        chunks: &[(ChunkId, ChunkKind)],
        take: &mut dyn FnMut(ChunkId, Vec<u8>) -> storepool::Result<()>,
    ) -> storepool::Result<()> {
        let mut left: Vec<_> = chunks.to_vec();
        for (_, healer) in self.healers() {
            if left.is_empty() {
                break;
            }
            let mut had = HashSet::new();
            healer.fetch(&left, &mut |id, bytes| {
                had.insert(id);
                take(id, bytes)
            })?;
            left.retain(|(id, _)| !had.contains(id));
        }
        Ok(())
    }
}
