-- From where a change was asked for. What there is not is the empty text.
alter table audit add column peer text collate "C" not null default '';
