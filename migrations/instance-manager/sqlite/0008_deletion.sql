-- The wish for an instance's end, until metadata has agreed: only if it is empty, or in any case. NULL: none.
ALTER TABLE instances ADD COLUMN wish_delete TEXT CHECK (wish_delete IN ('empty', 'forced'));
DROP INDEX instances_to_tend;
CREATE INDEX instances_to_tend ON instances (id)
    WHERE state IN ('pending', 'deleting') OR limits_in_force < limits_revision OR wish_delete IS NOT NULL;
